"""A quantized graph as a float graph, so that it can be trained and compressed again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from trimtab.errors import UnsupportedOperatorError
from trimtab.graph.access import Array, add_initializer, attribute, constant, replace_value
from trimtab.graph.clean import clean

_INTEGER_KERNELS = frozenset(
    {
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
        "DynamicQuantizeLinear",
    }
)


def dequantized(model: ir.Model) -> ir.Model:
    """Returns a float copy of a graph with QuantizeLinear/DequantizeLinear pairs.

    Stored integers become the floats that they stand for. Activations are no longer rounded, nor
    cut off at the ends of the integers' range. An input or output of integers becomes one of
    floats, `(q - zero_point) * scale`, under its name.

    Raises:
        UnsupportedOperatorError: The graph computes with integers themselves.
    """
    found = {node.op_type for node in model.graph.all_nodes()} & _INTEGER_KERNELS
    if found:
        raise UnsupportedOperatorError(
            f"a graph with {', '.join(sorted(found))} cannot be made float again; export it with "
            "QuantizeLinear/DequantizeLinear pairs (QDQ)",
            found,
        )
    copy = model.clone()
    for node in list(copy.graph):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or casts_weights(node):
            remove_step(copy, node)
    common.RemoveUnusedNodesPass()(copy)
    return clean(copy)


def casts_weights(node: ir.Node) -> bool:
    """Says whether a node is the Cast behind which a constant of 16-bit floats is stored."""
    if node.op_type != "Cast" or node.domain or constant(node.inputs[0]) is None:
        return False
    assert node.inputs[0] is not None
    return node.inputs[0].dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def remove_step(model: ir.Model, node: ir.Node) -> None:
    """Removes a QuantizeLinear, a DequantizeLinear or the Cast of a constant, in place.

    The float value is let through, and a stored one written out.
    """
    source = node.inputs[0]
    assert source is not None
    stored = constant(source)
    if stored is not None and node.op_type != "QuantizeLinear":
        floats = stored_floats(node) if node.op_type == "DequantizeLinear" else stored
        source = add_initializer(model.graph, f"{source.name}_float", floats.astype(np.float32))
    identity = ir.node("Identity", [source])
    model.graph.insert_before(node, identity)
    replace_value(node.outputs[0], identity.outputs[0])
    # A type of their own: setting `dtype` would change the type that a clone shares.
    for value in (source, identity.outputs[0]):
        value.type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.remove(node, safe=True)


def weight_floats(value: ir.Value) -> NDArray[np.float32] | None:
    """Returns the floats behind a weight that is stored in integers, or rounded when it is used.

    Args:
        value: What an operator reads.

    Returns:
        What DequantizeLinear makes of stored integers, or the constant that a pair rounds, in
        either case also behind a Reshape; None for anything else, plain constants included.
    """
    node = value.producer()
    source = node.inputs[0] if node is not None else None
    if node is None or source is None:
        return None
    if node.op_type == "Reshape":
        array, shape = weight_floats(source), constant(node.inputs[1])
        return None if array is None or shape is None else array.reshape(shape)
    if node.op_type != "DequantizeLinear":
        return None
    stored, to_codes = constant(source), source.producer()
    if stored is not None:
        return stored_floats(node) if constant(node.inputs[1]) is not None else None
    is_pair = to_codes is not None and to_codes.op_type == "QuantizeLinear"
    rounded = constant(to_codes.inputs[0]) if is_pair and to_codes else None
    return None if rounded is None else rounded.astype(np.float32)


def stored_floats(node: ir.Node) -> NDArray[np.float32]:
    """Returns what a DequantizeLinear makes of a constant: `(q - zero_point) * scale`."""
    stored, scale = constant(node.inputs[0]), constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    assert stored is not None
    assert scale is not None
    floats = stored.astype(np.float32)
    if zero is not None:
        floats -= _along(node, zero, stored.shape).astype(np.float32)
    return (floats * _along(node, scale, stored.shape)).astype(np.float32)


def _along(node: ir.Node, array: Array, shape: tuple[int, ...]) -> Array:
    """Lays a scale or zero point out beside the stored tensor: for all, an axis, or blocks."""
    if array.size == 1:
        return array.reshape(())
    axis = attribute(node, "axis", 1) % len(shape)
    if array.ndim == 1:
        return array.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    repeated = np.repeat(array, attribute(node, "block_size", 1), axis=axis)
    return np.take(repeated, np.arange(shape[axis]), axis=axis)
