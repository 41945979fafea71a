"""Normalisations: over the batch's stored statistics, over layers, instances, groups, norms.

Each one that computes a mean and a variance is `(x - mean) / sqrt(variance + epsilon)`, with the
biased variance, then scaled and shifted (ONNX operators reference).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, arrange, channels_last, laid, natural
from trimtab.engine.registry import Call, operator


@operator("BatchNormalization", trainable=(1, 2))
def batch_normalization(call: Call) -> Laid:
    """Inference form, per channel, with stored mean and variance."""
    if call.attribute("training_mode", 0):
        raise call.unsupported("in training mode")
    data = call[0]
    mean, variance = call.array(3), call.array(4)
    inverse = (1 / np.sqrt(variance + call.attribute("epsilon", 1e-5))).astype(np.float32)
    scale = call.weight(1, (0,)) * inverse
    shift = call.weight(2, (0,)) - scale * mean.astype(np.float32)
    return Laid(data.tensor * _per_channel(scale, data) + _per_channel(shift, data), data.axes)


@operator("InstanceNormalization", trainable=(1, 2))
def instance_normalization(call: Call) -> Laid:
    """Over the spatial axes, scaled and shifted per channel."""
    data = call[0]
    spatial = [index for index, axis in enumerate(data.axes) if axis not in (0, 1)]
    result = _standardised(data.tensor, spatial, call.attribute("epsilon", 1e-5))
    scale, bias = call.weight(1, (0,)), call.weight(2, (0,))
    return Laid(result * _per_channel(scale, data) + _per_channel(bias, data), data.axes)


@operator("GroupNormalization", trainable=(1, 2))
def group_normalization(call: Call) -> Laid:
    """Over groups of channels and space; one scale a channel, or a group before opset 21."""
    import tensorflow as tf

    data, groups = call[0], call.attribute("num_groups")
    channels = data.dim(1)
    if channels is None:
        raise call.unsupported("over a free number of channels")
    axes = (0, *range(2, data.rank), 1)
    tensor = arrange(data, axes)
    sizes = tf.shape(tensor)
    spatial = [data.dim(axis) or -1 for axis in range(2, data.rank)]
    free = sizes[0] if -1 in spatial else -1
    split = tf.reshape(tensor, [free, *spatial, groups, channels // groups])
    reduced = [*range(1, data.rank - 1), data.rank]
    result = tf.reshape(
        _standardised(split, reduced, call.attribute("epsilon", 1e-5)), [free, *spatial, channels]
    )
    scale, bias = (_each_channel(call.weight(index, (0,)), channels) for index in (1, 2))
    return Laid(result * scale + bias, axes)


def _each_channel(values: Any, channels: int) -> Any:
    import tensorflow as tf

    return tf.repeat(values, channels // values.shape[0])


@operator("LayerNormalization", trainable=(1, 2))
def layer_normalization(call: Call) -> tuple[Laid, Laid, Laid]:
    """Over all axes from `axis` on; also gives the mean and the inverse deviation."""
    import tensorflow as tf

    tensor, reduced = call.tensor(0), _from_axis(call)
    mean = tf.reduce_mean(tensor, reduced, keepdims=True)
    centred = tensor - mean
    variance = tf.reduce_mean(tf.square(centred), reduced, keepdims=True)
    inverse = tf.math.rsqrt(variance + call.attribute("epsilon", 1e-5))
    result = centred * _scaled(call, inverse)
    if call.has(2):
        result = result + call.weight(2, natural(call[2].rank))
    return laid(result), laid(mean), laid(inverse)


@operator("RMSNormalization", trainable=(1,))
def rms_normalization(call: Call) -> Laid:
    """Divides by the root mean square over all axes from `axis` on, and scales."""
    import tensorflow as tf

    tensor = call.tensor(0)
    power = tf.reduce_mean(tf.square(tensor), _from_axis(call), keepdims=True)
    inverse = tf.math.rsqrt(power + call.attribute("epsilon", 1e-5))
    return laid(tensor * _scaled(call, inverse))


def _scaled(call: Call, inverse: Any) -> Any:
    """Returns the inverse deviation times the trained scale.

    In this order the TFLite converter finds no factor that it could work into the weights of the
    products behind, which are then no longer the ones that the graph stores in few bits.
    """
    return inverse * call.weight(1, natural(call[1].rank))


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call) -> Laid:
    """`(x - mean) / (deviation + 1e-9)` over the axes given, which are all but the channels'."""
    import tensorflow as tf

    data = call[0]
    axes = [data.physical(axis) for axis in call.attribute("axes") or (0, 2, 3)]
    centred = data.tensor - tf.reduce_mean(data.tensor, axes, keepdims=True)
    deviation = tf.sqrt(tf.reduce_mean(tf.square(centred), axes, keepdims=True))
    return Laid(centred / (deviation + 1e-9), data.axes)


@operator("LpNormalization")
def lp_normalization(call: Call) -> Laid:
    """Divides by the L1 or L2 norm along one axis; where that is zero, the result is."""
    import tensorflow as tf

    data = call[0]
    axis = [data.physical(call.attribute("axis", -1))]
    if call.attribute("p", 2) == 1:
        norm = tf.reduce_sum(tf.abs(data.tensor), axis, keepdims=True)
    else:
        norm = tf.sqrt(tf.reduce_sum(tf.square(data.tensor), axis, keepdims=True))
    return Laid(tf.math.divide_no_nan(data.tensor, norm), data.axes)


@operator("LRN")
def local_response_normalization(call: Call) -> Laid:
    """Divides by `(bias + alpha / size * sum of squares over near channels) ** beta`.

    An odd size is TensorFlow's own operator, with `alpha` not divided by the size there.
    """
    import tensorflow as tf

    data, size = call[0], call.attribute("size")
    if size % 2 == 0 or data.rank != 4:
        raise call.unsupported(f"of size {size} over {data.rank} dimensions")
    axes = channels_last(4)
    result = tf.nn.local_response_normalization(
        arrange(data, axes),
        depth_radius=size // 2,
        bias=call.attribute("bias", 1.0),
        alpha=call.attribute("alpha", 1e-4) / size,
        beta=call.attribute("beta", 0.75),
    )
    return Laid(result, axes)


def _from_axis(call: Call) -> list[int]:
    rank = call[0].rank
    return list(range(call.attribute("axis", -1) % rank, rank))


def _standardised(tensor: Any, axes: list[int], epsilon: float) -> Any:
    import tensorflow as tf

    centred = tensor - tf.reduce_mean(tensor, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axes, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon)


def _per_channel(values: Any, data: Laid) -> Any:
    """Reshapes one value a channel so that it broadcasts over `data` as it lies."""
    import tensorflow as tf

    shape = [1] * len(data.axes)
    shape[data.physical(1)] = -1
    return tf.reshape(values, shape)
