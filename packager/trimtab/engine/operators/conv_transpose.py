"""ConvTranspose, 1-D and 2-D.

It is the gradient of a convolution with respect to its input: each element of the input adds a
copy of the kernel to the output, `stride` apart; `pads` are cut off from the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trimtab.engine.layout import Laid, arrange
from trimtab.engine.operators.spatial import spatial_axes
from trimtab.engine.registry import Call, operator


@dataclass(frozen=True)
class _Side:
    """One spatial axis: the full result before cutting, and what of it is kept."""

    stride: int
    dilation: int
    full: int
    cut: int
    kept: int


@operator("ConvTranspose", trainable=(1, 2))
def conv_transpose(call: Call) -> Laid:
    """`X [N, C, ...]`, `W [C, M / group, ...]`, `B [M]`; runs channels last."""
    import tensorflow as tf

    data, kernel, axes = call[0], call[1], spatial_axes(call)
    tensor = arrange(data, axes)
    sides = [_side(call, axis) for axis in range(data.rank - 2)]
    if len(sides) == 1:
        sides.insert(0, _Side(1, 1, 1, 0, 1))
    # TensorFlow's kernel is [height, width, out, in].
    weight = call.weight(1, (None, 2, 1, 0) if kernel.rank == 3 else (2, 3, 1, 0))
    group = call.attribute("group", 1)
    inputs, weights = tf.split(tensor, group, -1), tf.split(weight, group, -1)
    pieces = [_transposed(x, w, sides) for x, w in zip(inputs, weights, strict=True)]
    result = pieces[0] if group == 1 else tf.concat(pieces, -1)
    if call.has(2):
        result = tf.nn.bias_add(result, call.weight(2, (0,)))
    return Laid(result, axes)


def _transposed(tensor: Any, weight: Any, sides: list[_Side]) -> Any:
    import tensorflow as tf

    height, width = sides
    batch = tf.shape(tensor)[0] if tensor.shape[0] is None else tensor.shape[0]
    full = tf.nn.conv2d_transpose(
        tensor,
        weight,
        (batch, height.full, width.full, weight.shape[2]),
        (height.stride, width.stride),
        "VALID",
        dilations=(height.dilation, width.dilation),
    )
    # `output_padding` may reach behind the last copy of the kernel, where nothing was added.
    behind = [max(side.cut + side.kept - side.full, 0) for side in sides]
    if any(behind):
        full = tf.pad(full, [(0, 0), (0, behind[0]), (0, behind[1]), (0, 0)])
    if all(side.cut == 0 and side.kept == side.full for side in sides):
        return full
    rows, columns = (slice(side.cut, side.cut + side.kept) for side in sides)
    return full[:, rows, columns, :]


def _side(call: Call, axis: int) -> _Side:
    """Works out one axis (ONNX operator ConvTranspose, `output_shape` and `pads`)."""
    length, reach = call[0].dim(axis + 2), call[1].dim(axis + 2)
    if length is None or reach is None:
        raise call.unsupported("over an input of free size")
    stride, dilation, extra = (
        (call.attribute(name) or (default,) * (axis + 1))[axis]
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    full = stride * (length - 1) + (reach - 1) * dilation + 1
    mode, wished = call.attribute("auto_pad", "NOTSET"), call.attribute("output_shape")
    if wished or mode in ("SAME_UPPER", "SAME_LOWER"):
        kept = wished[axis - len(wished)] if wished else length * stride
        total = max(full + extra - kept, 0)
        # The odd one goes to the end, and for SAME_LOWER and no auto_pad to the front.
        cut = total // 2 if mode == "SAME_UPPER" else total - total // 2
        return _Side(stride, dilation, full, cut, kept)
    pads = call.attribute("pads") if mode == "NOTSET" else None
    before, after = (pads[axis], pads[axis + call[0].rank - 2]) if pads else (0, 0)
    return _Side(stride, dilation, full, before, full + extra - before - after)
