"""MaxPool, AveragePool and their global forms, 1-D and 2-D."""

from __future__ import annotations

from typing import Any

from trimtab.engine.layout import Laid, arrange, channels_last
from trimtab.engine.operators.spatial import Window, window
from trimtab.engine.registry import Call, operator
from trimtab.errors import UnsupportedOperatorError


@operator("MaxPool", "AveragePool")
def pool(call: Call) -> Laid:
    """Pooling over windows; a border that is padded in never wins a maximum."""
    import tensorflow as tf

    data, name = call[0], call.node.op_type
    _refuse(call)
    axes = channels_last(data.rank)
    tensor = arrange(data, axes)
    size = tuple(data.dim(axis) for axis in range(2, data.rank))
    view = window(call, tuple(call.attribute("kernel_shape")), size)
    kind = "MAX" if name == "MaxPool" else "AVG"
    ignores_border = name == "MaxPool" or not call.attribute("count_include_pad", 0)
    if view.is_valid:
        padding = "VALID"
    elif ignores_border and view.is_same((tensor.shape[1], tensor.shape[2])):
        padding = "SAME"  # TensorFlow leaves the border out of the mean
    else:
        return Laid(_pool_padded(tensor, view, kind, ignores_border=ignores_border), axes)
    result = tf.nn.pool(tensor, view.kernel, kind, view.strides, padding, dilations=view.dilations)
    return Laid(result, axes)


def _refuse(call: Call) -> None:
    if call.attribute("ceil_mode", 0) or len(call.node.outputs) > 1:
        raise UnsupportedOperatorError(
            f"node {call.node.name!r}: {call.node.op_type} with ceil_mode or with indices is not "
            "supported",
            [call.node.op_type],
        )


def _pool_padded(tensor: Any, view: Window, kind: str, *, ignores_border: bool) -> Any:
    """Pools after a Pad of its own: with -inf for a maximum, with zeros for a mean."""
    import tensorflow as tf

    pads = [(0, 0), *view.pads, (0, 0)]
    fill = tensor.dtype.min if kind == "MAX" else 0
    padded = tf.pad(tensor, pads, constant_values=fill)
    result = tf.nn.pool(padded, view.kernel, kind, view.strides, "VALID", dilations=view.dilations)
    if kind == "MAX" or not ignores_border:
        return result
    inside = tf.pad(tf.ones_like(tensor[:1, :, :, :1]), pads)
    share = tf.nn.pool(inside, view.kernel, kind, view.strides, "VALID", dilations=view.dilations)
    return result / share


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
