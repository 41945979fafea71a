"""Conv, 1-D and 2-D, plain, grouped and depthwise."""

from __future__ import annotations

from typing import Any

from trimtab.engine.layout import Laid, arrange
from trimtab.engine.operators.spatial import Window, spatial_axes, window
from trimtab.engine.registry import Call, operator


@operator("Conv", trainable=(1, 2))
def conv(call: Call) -> Laid:
    """`X [N, C, ...]`, `W [M, C / group, ...]`, `B [M]`; runs channels last."""
    import tensorflow as tf

    data, kernel = call[0], call[1]
    axes = spatial_axes(call)
    tensor = arrange(data, axes)
    view = window(call, tuple(kernel.dim(axis) or 0 for axis in range(2, kernel.rank)), data)
    tensor, padding = _pad(tensor, view)
    group = call.attribute("group", 1)
    if group > 1 and group == data.dim(1) and _is_depthwise_stride(view, tensor):
        result = _depthwise(call, tensor, view, padding)
    else:
        # TensorFlow reads the number of groups off the shapes of data and kernel.
        weight = call.weight(1, _kernel_axes(kernel.rank))
        result = tf.nn.conv2d(tensor, weight, view.strides, padding, dilations=view.dilations)
    if call.has(2):
        result = tf.nn.bias_add(result, call.weight(2, (0,)))
    return Laid(result, axes)


def _kernel_axes(rank: int) -> tuple[int | None, ...]:
    """Returns the order `[height, width, in, out]` for a kernel `[out, in, ...]`."""
    return (None, 2, 1, 0) if rank == 3 else (2, 3, 1, 0)


def _pad(tensor: Any, view: Window) -> tuple[Any, str]:
    """Returns the tensor and TensorFlow's word for its padding.

    Padding that is neither VALID nor SAME is a Pad of its own in front: TFLite's convolutions
    know these two only.
    """
    import tensorflow as tf

    if view.is_valid:
        return tensor, "VALID"
    if view.is_same((tensor.shape[1], tensor.shape[2])):
        return tensor, "SAME"
    return tf.pad(tensor, [(0, 0), *view.pads, (0, 0)]), "VALID"


def _depthwise(call: Call, tensor: Any, view: Window, padding: str) -> Any:
    """One filter per channel, or several: W is `[C * m, 1, ...]`, TensorFlow wants `[.., C, m]`."""
    import tensorflow as tf

    channels, filters = call[0].dim(1), call[1].dim(0)
    if channels is None or filters is None:
        raise TypeError("a depthwise convolution has a known number of channels")
    weight = call.weight(1, (None, 2, 0, 1) if call[1].rank == 3 else (2, 3, 0, 1))
    if filters != channels:
        height, width = weight.shape[:2]
        weight = tf.reshape(weight, (height, width, channels, filters // channels))
    stride = max(view.strides)
    strides = (1, stride, stride, 1)
    return tf.nn.depthwise_conv2d(tensor, weight, strides, padding, dilations=view.dilations)


def _is_depthwise_stride(view: Window, tensor: Any) -> bool:
    """Says whether TensorFlow's depthwise kernel takes the strides.

    It takes one for both axes, and none with dilations. Along an axis of size 1 any stride is the
    same. Others run as a grouped convolution, which TFLite has in int8 too.
    """
    stride = max(view.strides)
    if stride > 1 and max(view.dilations) > 1:
        return False
    return min(view.strides) == stride or tensor.shape[1] == 1
