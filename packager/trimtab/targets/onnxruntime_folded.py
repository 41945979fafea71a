"""Stored weights that ONNX Runtime turns into floats once, when it loads the file.

It runs a DequantizeLinear in every inference, but folds any other operator on constants. Six
convolutions of 64 channels took 3.95 ms with DequantizeLinear and 3.04 ms with the arithmetic
written out, the time of float weights. The file is as small, the memory as large as with floats.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import Array, add_initializer, replace_value
from trimtab.targets.stored_weights import StoredWeight


def fold(graph: ir.Graph, weight: StoredWeight) -> None:
    """Writes `(codes - zero_point) * scale` out, in place of the DequantizeLinear."""
    codes = weight.node.inputs[0]
    assert codes is not None, "a stored weight has codes"
    float_type = {"to": int(ir.DataType.FLOAT)}
    new = [ir.node("Cast", [codes], float_type)]
    if weight.block is not None:
        new.append(_reshape(graph, new[-1], _blocked_shape(weight), f"{weight.name}_blocks"))
    if not weight.is_symmetric:
        zeros = _beside_blocks(weight, weight.zero_points).astype(np.float32)
        operand = add_initializer(graph, f"{weight.name}_zero", zeros)
        new.append(ir.node("Sub", [new[-1].outputs[0], operand]))
    scales = add_initializer(graph, f"{weight.name}_scales", _beside_blocks(weight, weight.scales))
    new.append(ir.node("Mul", [new[-1].outputs[0], scales]))
    shape = weight.value.shape
    if weight.block is not None or len(shape or ()) != weight.codes.ndim:
        sizes = tuple(shape.numpy()) if shape is not None else weight.codes.shape
        new.append(_reshape(graph, new[-1], sizes, f"{weight.name}_sizes"))
    graph.insert_before(weight.node, new)
    result = new[-1].outputs[0]
    result.shape, result.type = shape, ir.TensorType(ir.DataType.FLOAT)
    replace_value(weight.value, result)


def _blocked_shape(weight: StoredWeight) -> tuple[int, ...]:
    """Returns the codes' shape with the axis of the blocks split in two."""
    shape, axis = weight.codes.shape, weight.axis
    blocks = shape[axis] // (weight.block or 1)
    return (*shape[:axis], blocks, weight.block or 1, *shape[axis + 1 :])


def _beside_blocks(weight: StoredWeight, array: Array) -> Array:
    """Gives scales the axis within a block that the split codes have."""
    return array if weight.block is None else np.expand_dims(array, weight.axis + 1)


def _reshape(graph: ir.Graph, node: ir.Node, shape: tuple[int, ...], name: str) -> ir.Node:
    sizes = add_initializer(graph, name, np.array(shape, np.int64))
    return ir.node("Reshape", [node.outputs[0], sizes])
