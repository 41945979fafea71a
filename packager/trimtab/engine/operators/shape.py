"""Operators that rename, add, drop, join and split axes: most only change the list of axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, arrange, laid, onnx_order
from trimtab.engine.operators.reduce import drop_axes
from trimtab.engine.registry import Call, operator


@operator("Transpose")
def transpose(call: Call) -> Laid:
    """No data moves: the logical axes are renumbered."""
    data = call[0]
    perm = call.attribute("perm") or tuple(reversed(range(data.rank)))
    renumbered = {old: new for new, old in enumerate(perm)}
    axes = tuple(None if axis is None else renumbered[axis] for axis in data.axes)
    return Laid(data.tensor, axes)


@operator("Squeeze")
def squeeze(call: Call) -> Laid:
    """No data moves: the axes stay, but nothing stands for them."""
    data = call[0]
    axes = call.integers(1, "axes")
    if axes is None:
        axes = tuple(axis for axis in range(data.rank) if data.dim(axis) == 1)
    return drop_axes(data, {axis % data.rank for axis in axes})


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Laid:
    """Adds axes of size 1, using extra physical ones that are there already."""
    data = call[0]
    axes = call.integers(1, "axes") or ()
    rank = data.rank + len(axes)
    new = sorted(axis % rank for axis in axes)
    old = [axis for axis in range(rank) if axis not in new]
    order: list[int | None] = [None if axis is None else old[axis] for axis in data.axes]
    tensor = data.tensor
    for axis in new:
        if None in order:
            order[order.index(None)] = axis
        else:
            tensor, order = _expand(tensor), [axis, *order]
    return Laid(tensor, tuple(order))


def _expand(tensor: Any) -> Any:
    if isinstance(tensor, np.ndarray):
        return tensor[None]
    import tensorflow as tf

    return tensor[tf.newaxis]


@operator("Reshape")
def reshape(call: Call) -> Laid:
    """0 copies the input's dimension, -1 is worked out; the shape may be a computed one."""
    import tensorflow as tf

    data = call[0]
    tensor = onnx_order(data)
    if not call[1].is_constant:
        return laid(tf.reshape(tensor, call.tensor(1)))
    target: list[Any] = [int(dim) for dim in call.array(1)]
    if not call.attribute("allowzero", 0):
        dynamic = tf.shape(tensor) if not data.is_constant else tensor.shape
        target = [
            (data.dim(index) if data.dim(index) is not None else dynamic[index])
            if dim == 0
            else dim
            for index, dim in enumerate(target)
        ]
    return laid(tf.reshape(tensor, _one_free(target)))


def _one_free(target: list[Any]) -> list[Any]:
    """Lets TensorFlow work out the batch where the target copies it: the shape stays static."""
    if any(isinstance(dim, int) and dim == -1 for dim in target):
        return target
    free = [index for index, dim in enumerate(target) if not isinstance(dim, int)]
    return [-1 if [index] == free else dim for index, dim in enumerate(target)]


@operator("Flatten")
def flatten(call: Call) -> Laid:
    """Two dimensions: everything before `axis`, and everything from it on."""
    import tensorflow as tf

    data = call[0]
    axis = call.attribute("axis", 1)
    first = axis + data.rank if axis < 0 else axis  # it may be the rank itself
    tensor = onnx_order(data)
    sizes = [data.dim(index) for index in range(first, data.rank)]
    if None in sizes:
        raise call.unsupported("of dimensions of free size")
    return laid(
        tf.reshape(tensor, (-1, int(np.prod([size for size in sizes if size is not None]))))
    )


@operator("Concat")
def concat(call: Call) -> Laid:
    """Joins along one axis, in the order of the first operand that is not constant."""
    import tensorflow as tf

    values = [call[index] for index in range(len(call.inputs))]
    leader = next((value for value in values if not value.is_constant), values[0])
    tensors = [arrange(value, leader.axes) for value in values]
    return Laid(tf.concat(tensors, leader.physical(call.attribute("axis"))), leader.axes)


@operator("Split")
def split(call: Call) -> tuple[Laid, ...]:
    """Into parts of the sizes given, or of equal size, the last one smaller if it must be."""
    import tensorflow as tf

    data = call[0]
    axis = call.attribute("axis", 0)
    sizes = call.integers(1, "split")
    if sizes is None:
        length, parts = data.dim(axis), call.attribute("num_outputs", len(call.node.outputs))
        if length is None:
            raise call.unsupported("of an axis of free size")
        part = -(-length // parts)
        sizes = tuple(min(part, length - part * index) for index in range(parts))
    pieces = tf.split(data.tensor, sizes, data.physical(axis))
    return tuple(Laid(piece, data.axes) for piece in pieces)


@operator("Dropout")
def dropout(call: Call) -> tuple[Laid, Laid]:
    """Inference form: drops nothing, and says so in its mask."""
    import tensorflow as tf

    data = call[0]
    if call.has(2) and np.any(call.array(2)):
        raise call.unsupported("in training mode")
    return data, Laid(tf.ones_like(data.tensor, dtype=tf.bool), data.axes)
