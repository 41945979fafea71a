"""Keeps what a quantized graph joins in float apart from TFLite's integers.

TensorFlow's converter carries a scale on from operator to operator, also to where the graph has no
pair, and gives all that a Concat joins one scale. A detector that joins boxes with scores, in
float, came out with all boxes clipped to 0..1, for the int8 kernel of a Sigmoid has that range.
And it refuses a OneHot, which it also makes of an Equal and a Cast, whose result is rounded.

So such values go through an operator that the converter leaves in float and that no graph has: the
remainder of a division by a certain large number. It is taken out of the file again.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import add_initializer, constant

MARK = np.array(1.2345e30, np.float32)
"""The divisor."""

_FROM_INTEGERS = frozenset({"Cast", "OneHot"})
_JOINS = frozenset({"Concat", "Max", "Min", "Where"})


def mark_float_joins(model: ir.Model) -> ir.Model:
    """Returns a copy of `model` with a remainder where integers must not be carried on."""
    model = model.clone()
    graph = model.graph
    places = [
        (node, index, value)
        for node in graph
        for index, value in enumerate(node.inputs)
        if value is not None and _stays_float(node, value)
    ]
    for number, (node, index, value) in enumerate(places):
        divisor = add_initializer(graph, f"float_mark_{number}", MARK)
        mark = ir.node("Mod", [value, divisor])
        mark.outputs[0].shape = value.shape
        mark.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(node, mark)
        node.replace_input_with(index, mark.outputs[0])
    return model


def _stays_float(node: ir.Node, value: ir.Value) -> bool:
    if value.dtype != ir.DataType.FLOAT or constant(value) is not None:
        return False
    producer = value.producer()
    if producer is not None and producer.op_type in _FROM_INTEGERS:
        return True
    if node.op_type not in _JOINS:
        return False
    pairs = [use.node for use in node.outputs[0].uses() if use.node.op_type == "QuantizeLinear"]
    return all(map(_is_wide, pairs))


def _is_wide(pair: ir.Node) -> bool:
    """Says whether a pair is of 16 bits, which the converter refuses in a Concat."""
    return pair.outputs[0].dtype == ir.DataType.INT16
