"""Pooling by maximum, mean and Lp norm, over windows and over everything, 1-D and 2-D."""

from __future__ import annotations

from typing import Any

from trimtab.engine.layout import Laid, arrange
from trimtab.engine.operators.spatial import Window, spatial_axes, window
from trimtab.engine.registry import Call, operator


@operator("MaxPool", "AveragePool")
def pool(call: Call) -> Laid:
    """Pooling over windows; a border that is padded in never wins a maximum."""
    data, kind = call[0], "MAX" if call.node.op_type == "MaxPool" else "AVG"
    axes = spatial_axes(call)
    tensor = arrange(data, axes)
    view = window(call, tuple(call.attribute("kernel_shape")), data)
    ignores_border = kind == "MAX" or not call.attribute("count_include_pad", 0)
    if view.is_valid:
        padding = "VALID"
    elif ignores_border and _is_same(view, tensor):
        padding = "SAME"  # TensorFlow leaves the border out of the mean
    elif kind == "MAX":
        return Laid(_max_padded(tensor, view), axes)
    else:
        return Laid(_mean_padded(tensor, view, ignores_border=ignores_border), axes)
    return Laid(_windows(tensor, view, kind, padding), axes)


def _windows(tensor: Any, view: Window, kind: str, padding: str) -> Any:
    import tensorflow as tf

    if max(view.dilations) == 1:
        plain = tf.nn.max_pool2d if kind == "MAX" else tf.nn.avg_pool2d
        return plain(tensor, view.kernel, view.strides, padding)
    return tf.nn.pool(tensor, view.kernel, kind, view.strides, padding, dilations=view.dilations)


def _is_same(view: Window, tensor: Any) -> bool:
    # With dilations TensorFlow pads by itself, with zeros that count.
    return max(view.dilations) == 1 and view.is_same((tensor.shape[1], tensor.shape[2]))


def _max_padded(tensor: Any, view: Window) -> Any:
    """Maximum after a Pad of its own with the lowest number there is."""
    import tensorflow as tf

    padded = tf.pad(
        tensor, [(0, 0), *view.pads, (0, 0)], constant_values=tf.as_dtype(tensor.dtype).min
    )
    return _windows(padded, view, "MAX", "VALID")


def _mean_padded(tensor: Any, view: Window, *, ignores_border: bool) -> Any:
    """Mean after a Pad of its own with zeros, divided by the share of a window that counts.

    What `ceil_mode` adds never counts; padding does if `count_include_pad` says so.
    """
    import tensorflow as tf

    padded = tf.pad(tensor, [(0, 0), *view.pads, (0, 0)])
    mean = _windows(padded, view, "AVG", "VALID")
    if not ignores_border and view.overhang == (0, 0):
        return mean
    extra = [(0, 0), *((0, overhang) for overhang in view.overhang), (0, 0)]
    explicit = [
        (before, after - overhang)
        for (before, after), overhang in zip(view.pads, view.overhang, strict=True)
    ]
    ones = tf.ones_like(tensor[:1, :, :, :1])
    counts = tf.pad(ones, [(0, 0), *explicit, (0, 0)], constant_values=float(not ignores_border))
    return mean / _windows(tf.pad(counts, extra), view, "AVG", "VALID")


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(call: Call) -> Laid:
    """Mean or maximum over everything but batch and channels; those axes stay, with size 1."""
    import tensorflow as tf

    data = call[0]
    axes = [data.physical(axis) for axis in range(2, data.rank)]
    reduce = tf.reduce_mean if call.node.op_type == "GlobalAveragePool" else tf.reduce_max
    # Extra axes of size 1 are part of the mean too, so that TFLite sees a spatial mean.
    extra = [index for index, axis in enumerate(data.axes) if axis is None]
    return Laid(reduce(data.tensor, sorted(axes + extra), keepdims=True), data.axes)


@operator("LpPool")
def lp_pool(call: Call) -> Laid:
    """`sum(|x| ** p) ** (1 / p)` over windows: a mean of powers times the window's size."""
    import tensorflow as tf

    data, power = call[0], call.attribute("p", 2)
    axes = spatial_axes(call)
    view = window(call, tuple(call.attribute("kernel_shape")), data)
    powers = _power(arrange(data, axes), power)
    padded = tf.pad(powers, [(0, 0), *view.pads, (0, 0)])
    sums = _windows(padded, view, "AVG", "VALID") * float(view.kernel[0] * view.kernel[1])
    return Laid(_root(sums, power), axes)


@operator("GlobalLpPool")
def global_lp_pool(call: Call) -> Laid:
    """`sum(|x| ** p) ** (1 / p)` over everything but batch and channels."""
    import tensorflow as tf

    data, power = call[0], call.attribute("p", 2)
    axes = [data.physical(axis) for axis in range(2, data.rank)]
    sums = tf.reduce_sum(_power(data.tensor, power), axes, keepdims=True)
    return Laid(_root(sums, power), data.axes)


def _power(tensor: Any, power: int) -> Any:
    import tensorflow as tf

    return tf.square(tensor) if power == 2 else tf.pow(tf.abs(tensor), float(power))


def _root(tensor: Any, power: int) -> Any:
    import tensorflow as tf

    return tf.sqrt(tensor) if power == 2 else tf.pow(tensor, 1.0 / power)
