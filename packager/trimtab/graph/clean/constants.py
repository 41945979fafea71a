"""Constant folding: nodes whose inputs are all known are computed once, here."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from trimtab.graph.access import add_initializer, constant, replace_value, shape_of

_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}
_QUANTIZATION = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
"""A dequantized constant is a stored int8 weight; folding it would make it float again."""


def lift_constants(model: ir.Model) -> bool:
    """Turns Constant nodes into initializers."""
    result = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return bool(result.modified)


def untie_uniform_constants(model: ir.Model) -> bool:
    """Gives every layer a vector of its own where it is the same number throughout.

    tf2onnx and PyTorch's exporter store equal constants once. Biases that are all zero, or scales
    that are all one, would then be trained and pruned as one.
    """
    changed = False
    for value in list(model.graph.initializers.values()):
        uses = [use for use in value.uses() if use.node.graph is model.graph]
        if len(uses) < 2 or value.shape is None or len(value.shape) != 1:
            continue
        array = constant(value)
        if array is None or array.size < 2 or array.dtype.kind != "f" or np.ptp(array) != 0:
            continue
        for use in uses[1:]:
            own = add_initializer(model.graph, str(value.name), array)
            use.node.replace_input_with(use.idx, own)
        changed = True
    return changed


def fold_constants(model: ir.Model) -> bool:
    """Computes every node whose inputs are constants.

    The reference evaluator of the onnx package computes them, so that a folded value is what
    the operator's specification says.
    """
    changed = False
    for node in list(model.graph):
        if _is_foldable(node):
            changed |= _fold(model, node)
    return changed


def _is_foldable(node: ir.Node) -> bool:
    return (
        node.domain in ("", "ai.onnx")
        and node.op_type not in _RANDOM | _QUANTIZATION
        and any(value is not None for value in node.inputs)
        and all(value is None or constant(value) is not None for value in node.inputs)
        and not any(attr.type in _GRAPHS for attr in node.attributes.values())
        and not _grows(node)
    )


_SMALL_BYTES = 64 * 1024


def _grows(node: ir.Node) -> bool:
    """Says whether folding would store much more than it saves.

    Weights that are kept as int8 and made float by a Cast would take four times the room.
    """
    before = sum(array.nbytes for array in map(constant, node.inputs) if array is not None)
    after = 0
    for value in node.outputs:
        shape = shape_of(value)
        if shape is None or value.dtype is None:
            return False
        # What depends on constants alone has no free dimension.
        after += int(prod(dim or 0 for dim in shape) * value.dtype.itemsize)
    return after > max(before, _SMALL_BYTES)


_GRAPHS = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}


def _fold(model: ir.Model, node: ir.Node) -> bool:
    inputs = [value for value in node.inputs if value is not None]
    proto = onnx.helper.make_graph(
        [ir.to_proto(node)],
        "fold",
        [onnx.helper.make_value_info(value.name, onnx.TypeProto()) for value in inputs],
        [onnx.helper.make_value_info(value.name, onnx.TypeProto()) for value in node.outputs],
    )
    opset = [onnx.helper.make_opsetid("", model.opset_imports.get("", 17))]
    evaluator = ReferenceEvaluator(onnx.helper.make_model(proto, opset_imports=opset))
    results = evaluator.run(None, {value.name: constant(value) for value in inputs})
    for output, array in zip(node.outputs, results, strict=True):
        replace_value(output, add_initializer(model.graph, f"{output.name}_folded", array))
    model.graph.remove(node, safe=True)
    return True
