"""Operators that rearrange: most of them only change the list of axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, arrange, broadcast, laid, natural, onnx_order
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
    """0 copies the input's dimension, -1 is worked out."""
    import tensorflow as tf

    data = call[0]
    target: list[Any] = [int(dim) for dim in call.array(1)]
    tensor = onnx_order(data)
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


@operator("Pad")
def pad(call: Call) -> Laid:
    """Constant or reflected borders; nothing is cut away."""
    import tensorflow as tf

    data = call[0]
    pads = call.integers(1, "pads")
    mode = call.attribute("mode", "constant")
    if pads is None or min(pads) < 0 or mode not in ("constant", "reflect"):
        raise call.unsupported(f"in mode {mode!r} with pads {pads}")
    chosen = call.integers(3, "axes") or natural(data.rank)
    widths = [(0, 0)] * len(data.axes)
    for index, axis in enumerate(chosen):
        widths[data.physical(int(axis or 0))] = (pads[index], pads[index + len(chosen)])
    fill = call.array(2).item() if call.has(2) else call.attribute("value", 0.0)
    return Laid(tf.pad(data.tensor, widths, mode.upper(), constant_values=fill), data.axes)


@operator("Slice")
def slice_(call: Call) -> Laid:
    """Constant starts, ends and steps."""
    data = call[0]
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    axes = call.integers(3, "axes")
    steps = call.integers(4, "steps")
    if starts is None or ends is None:
        raise call.unsupported("without bounds")
    index: list[Any] = [slice(None)] * len(data.axes)
    for position, axis in enumerate(axes or range(len(starts))):
        step = steps[position] if steps else 1
        index[data.physical(axis)] = _bounds(starts[position], ends[position], step)
    return Laid(data.tensor[tuple(index)], data.axes)


_FAR = 2**31 - 1
"""Exporters write the largest integer for "to the end"; it does not fit TensorFlow's int32."""


def _bounds(start: int, end: int, step: int) -> slice:
    return slice(start if abs(start) < _FAR else None, end if abs(end) < _FAR else None, step)


@operator("Cast")
def cast(call: Call) -> Laid:
    """To another of numpy's own data types; those of 8-bit floats and 4-bit integers are not."""
    import onnx_ir as ir
    import tensorflow as tf

    wished = np.dtype(ir.DataType(call.attribute("to")).numpy())
    present = np.dtype(tf.as_dtype(call[0].tensor.dtype).as_numpy_dtype)
    if wished.isbuiltin != 1 or present.isbuiltin != 1:
        raise call.unsupported(f"from {present} to {wished}")
    return Laid(tf.cast(call[0].tensor, wished), call[0].axes)


@operator("Where")
def where(call: Call) -> Laid:
    """Element-wise choice."""
    import tensorflow as tf

    (condition, yes, no), axes = broadcast([call[0], call[1], call[2]])
    return Laid(tf.where(condition, yes, no), axes)
