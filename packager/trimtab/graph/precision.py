"""What a graph computes with: its floats made single precision, its integers found.

Everything after loading (training, quantization, the runtimes on a device's CPU) computes in
float32. Half precision would be rounded once more by every fold, bfloat16 has no kernels on most
CPUs, and double costs twice the memory for digits that no later step keeps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import Array

_SINGLE = ir.DataType.FLOAT
_OTHER_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")
"""Attributes of ONNX's operators that hold an element type (onnx/docs/Operators.md)."""


def to_single_precision(model: ir.Model) -> None:
    """Makes every float of 16 or 64 bits one of 32 bits, in place; control flow included.

    Weights and constants are converted once. Casts between floats become casts to float32, which
    cleaning drops. A number beyond float32's range becomes the end of that range. Inputs and
    outputs become float32, under their names. Integers, booleans, strings and floats of 8 bits
    stay.

    Args:
        model: Its functions must have been inlined.
    """
    for graph in _graphs(model.graph):
        for value in graph.initializers.values():
            _convert_constant(value)
        for value in graph.inputs:
            _retype(value)
        for node in graph:
            for value in node.outputs:
                _retype(value)
            _convert_attributes(node)


def has_integer_activations(model: ir.Model) -> bool:
    """Says whether activations are rounded to integers on the way: static quantization."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph)


def has_int16_activations(model: ir.Model) -> bool:
    """Says whether activations are rounded to integers of 16 bits."""
    return any(
        node.op_type == "QuantizeLinear" and node.outputs[0].dtype == ir.DataType.INT16
        for node in model.graph
    )


ACTIVATIONS_KEY = "trimtab.activations"
"""Where the DequantizeLinear of a weight says what may become of its layer's activations."""


def may_round_activations(node: ir.Node) -> bool:
    """Says whether a runtime may round what the layer of this weight reads to 8 bits, as it runs.

    Args:
        node: The weight's DequantizeLinear.
    """
    return node.metadata_props.get(ACTIVATIONS_KEY) == "dynamic"


def rounds_activations(model: ir.Model) -> bool:
    """Says whether activations are rounded somewhere, by the graph or as the runtime likes."""
    return has_integer_activations(model) or any(map(may_round_activations, model.graph))


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    yield from (inner for inner in graph.subgraphs() if inner is not graph)


def _convert_constant(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is not None and tensor.dtype in _OTHER_FLOATS:
        value.const_value = ir.tensor(_single(tensor.numpy()), name=value.name)
    _retype(value)


def _retype(value: ir.Value) -> None:
    """Gives a value a type of its own: setting `dtype` would change one that a clone shares."""
    if value.dtype not in _OTHER_FLOATS:
        return
    if isinstance(value.type, ir.TensorType):
        value.type = ir.TensorType(_SINGLE)
    elif isinstance(value.type, ir.SequenceType):
        value.type = ir.SequenceType(ir.TensorType(_SINGLE))


def _convert_attributes(node: ir.Node) -> None:
    for name, attr in list(node.attributes.items()):
        if attr.type == ir.AttributeType.TENSOR and attr.as_tensor().dtype in _OTHER_FLOATS:
            array = _single(attr.as_tensor().numpy())
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
        elif (
            name in _TYPE_ATTRIBUTES
            and attr.type == ir.AttributeType.INT
            and attr.as_int() in _OTHER_FLOATS
        ):
            node.attributes[name] = ir.AttrInt64(name, int(_SINGLE))


def _single(array: Array) -> Array:
    """Rounds to float32; what is beyond its range, such as a mask's -1.8e308, becomes its end."""
    ends = np.finfo(np.float32)
    wide = np.asarray(array).astype(np.float64 if array.dtype == np.float64 else np.float32)
    inside = np.where(np.isfinite(wide), np.clip(wide, ends.min, ends.max), wide)
    return inside.astype(np.float32)
