"""Batch norms, scalings and shifts folded into the convolution or product before them.

A convolution followed by `y * s + t` per channel is a convolution with weights `W * s` and bias
`b * s + t`. Unfolded, they cost time in every runtime, and much more in int8 (a batch norm left
in made int8 in ONNX Runtime 2.3 times slower than float on a ResNet-8).
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.access import (
    add_initializer,
    attribute,
    constant,
    only_consumer,
    rank_of,
    replace_value,
    shape_of,
)

_OUT_AXIS = {"Conv": 0, "MatMul": 1}


def is_wide_float(array: NDArray[Any] | None) -> TypeGuard[NDArray[Any]]:
    """Says whether an array is known and of at least 32 bits.

    In half precision a folded weight is rounded once more, which shows in the outputs.
    """
    return array is not None and array.dtype in (np.float32, np.float64)


def split_batch_norm(model: ir.Model) -> bool:
    """Writes an inference-time BatchNormalization as a multiplication and an addition.

    `scale / sqrt(var + epsilon)` and `bias - mean * scale / sqrt(var + epsilon)`, per channel
    (ONNX operator BatchNormalization, training_mode=0).
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "BatchNormalization" or attribute(node, "training_mode", 0):
            continue
        arrays = [constant(value) for value in node.inputs[1:5]]
        rank = rank_of(node.inputs[0])
        if rank is None or not all(map(is_wide_float, arrays)):
            continue
        scale, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
        dtype = np.asarray(arrays[0]).dtype
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        shape = (1, -1, *[1] * (rank - 2))
        graph, name = model.graph, node.outputs[0].name
        shift = bias - mean * factor
        scales = add_initializer(graph, f"{name}_scale", factor.reshape(shape).astype(dtype))
        shifts = add_initializer(graph, f"{name}_shift", shift.reshape(shape).astype(dtype))
        mul = ir.node("Mul", [node.inputs[0], scales], name=node.name)
        add = ir.node("Add", [mul.outputs[0], shifts], name=node.name)
        graph.insert_before(node, [mul, add])
        replace_value(node.outputs[0], add.outputs[0])
        graph.remove(node, safe=True)
        changed = True
    return changed


def fold_scaling(model: ir.Model) -> bool:
    """Folds `* s`, `/ s`, `+ t` and `- t` into the Conv, MatMul or Gemm that alone feeds them."""
    changed = False
    for node in list(model.graph):
        if node.op_type in ("Mul", "Div", "Add", "Sub") and node.graph is not None:
            changed |= _fold_one(model, node)
    return changed


def _fold_one(model: ir.Model, node: ir.Node) -> bool:
    data, array = _data_and_constant(node)
    layer = data.producer() if data is not None else None
    if data is None or array is None or layer is None or only_consumer(data) is not node:
        return False
    if not _is_foldable(layer):
        return False
    per_channel = _per_channel(array, data, layer)
    if per_channel is None:
        return False
    if node.op_type in ("Mul", "Div"):
        _scale(model, layer, per_channel if node.op_type == "Mul" else 1 / per_channel)
    elif layer.op_type == "MatMul":
        return False  # it has no bias: clean.dense makes a Gemm of it where that is possible
    else:
        _shift(model, layer, per_channel if node.op_type == "Add" else -per_channel)
    replace_value(node.outputs[0], layer.outputs[0])
    model.graph.remove(node, safe=True)
    return True


def _is_foldable(layer: ir.Node) -> bool:
    """Says whether a node is a layer whose weight and bias are floats that are known."""
    if layer.op_type not in ("Conv", "Gemm", "MatMul"):
        return False
    if layer.op_type == "Gemm" and not is_plain_gemm(layer):
        return False
    weight = constant(layer.inputs[1])
    if not is_wide_float(weight) or (layer.op_type != "Conv" and weight.ndim != 2):
        return False
    bias = _bias_of(layer)
    return bias is None or constant(bias) is not None


def _bias_of(layer: ir.Node) -> ir.Value | None:
    return layer.inputs[2] if len(layer.inputs) > 2 else None


def _data_and_constant(node: ir.Node) -> tuple[ir.Value | None, NDArray[np.float32] | None]:
    left, right = node.inputs
    if constant(right) is not None:
        return left, constant(right)
    if constant(left) is not None and node.op_type in ("Mul", "Add"):
        return right, constant(left)
    return None, None


def is_plain_gemm(layer: ir.Node) -> bool:
    """Says whether a Gemm neither scales nor turns its operands, other than the weight."""
    scales = attribute(layer, "alpha", 1.0), attribute(layer, "beta", 1.0)
    return scales == (1.0, 1.0) and not attribute(layer, "transA", 0)


def _out_axis(layer: ir.Node) -> int:
    """Returns the axis of the layer's weight that holds its output channels."""
    if layer.op_type == "Gemm":
        return 0 if attribute(layer, "transB", 0) else 1
    return _OUT_AXIS[layer.op_type]


def _per_channel(
    array: NDArray[np.float32], data: ir.Value, layer: ir.Node
) -> NDArray[np.float64] | None:
    """Returns `array` as one number per output channel, or None if it is not that.

    Conv's channels are axis 1 of its output; those of products are the last axis.
    """
    rank, weight = rank_of(data), constant(layer.inputs[1])
    if rank is None or weight is None or array.ndim > rank or weight.ndim < 2:
        return None
    channels = weight.shape[_out_axis(layer)]
    axis = 1 if layer.op_type == "Conv" else rank - 1
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if any(size != 1 for index, size in enumerate(full.shape) if index != axis):
        return None
    if full.shape[axis] not in (1, channels) or shape_of(data) is None:
        return None
    return np.broadcast_to(full.reshape(-1).astype(np.float64), (channels,))


def _scale(model: ir.Model, layer: ir.Node, factor: NDArray[np.float64]) -> None:
    weight = constant(layer.inputs[1])
    assert weight is not None
    shape = [1] * weight.ndim
    shape[_out_axis(layer)] = -1
    scaled = (weight * factor.reshape(shape)).astype(weight.dtype)
    layer.replace_input_with(1, derived(model, layer.inputs[1], scaled))
    old = _bias_of(layer)
    bias = constant(old)
    if bias is not None:
        layer.replace_input_with(2, derived(model, old, (bias * factor).astype(bias.dtype)))


def _shift(model: ir.Model, layer: ir.Node, shift: NDArray[np.float64]) -> None:
    old, weight = _bias_of(layer), constant(layer.inputs[1])
    assert weight is not None
    bias = constant(old)
    total = (shift if bias is None else bias + shift).astype(weight.dtype)
    value = derived(model, old, total)
    layer.resize_inputs(3)
    layer.replace_input_with(2, value)


def derived(model: ir.Model, source: ir.Value | None, array: NDArray[np.float32]) -> ir.Value:
    """Registers a changed copy: the original may be shared with another layer."""
    return add_initializer(model.graph, str(source.name) if source is not None else "bias", array)
