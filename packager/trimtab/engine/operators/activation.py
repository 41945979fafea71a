"""Activations: those that work on each element alone, and those along one axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, arrange, broadcast, natural
from trimtab.engine.operators.unary import unary
from trimtab.engine.registry import Call, operator

unary("Relu", lambda tf, x: tf.nn.relu(x))
unary("Sigmoid", lambda tf, x: tf.sigmoid(x))
unary("Tanh", lambda tf, x: tf.tanh(x))
unary("Softplus", lambda tf, x: tf.math.softplus(x))
unary("Softsign", lambda tf, x: tf.math.softsign(x))
unary("HardSwish", lambda tf, x: x * tf.nn.relu6(x + 3.0) * np.float32(1 / 6))
unary("Mish", lambda tf, x: x * tf.tanh(tf.math.softplus(x)))


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Laid:
    """`x` above zero, `alpha * x` below."""
    import tensorflow as tf

    return Laid(tf.nn.leaky_relu(call[0].tensor, call.attribute("alpha", 0.01)), call[0].axes)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Laid:
    """`x` above alpha, zero elsewhere."""
    import tensorflow as tf

    tensor, alpha = call[0].tensor, call.attribute("alpha", 1.0)
    return Laid(tf.where(tensor > alpha, tensor, tf.zeros_like(tensor)), call[0].axes)


@operator("Elu", "Celu", "Selu")
def elu(call: Call) -> Laid:
    """`x` above zero, a falling exponential below; Celu and Selu scale one or both sides.

    Elu: `alpha * (exp(x) - 1)`, Celu: `alpha * (exp(x / alpha) - 1)`, Selu: `gamma` times Elu.
    """
    import tensorflow as tf

    tensor, name = call[0].tensor, call.node.op_type
    alpha = call.attribute("alpha", _SELU_ALPHA if name == "Selu" else 1.0)
    if name == "Elu" and alpha == 1.0:
        return Laid(tf.nn.elu(tensor), call[0].axes)
    # The exponential sees no number above zero: it could overflow, and spoil the gradient.
    below = tf.minimum(tensor, 0.0)
    falling = alpha * (tf.exp(below / alpha if name == "Celu" else below) - 1)
    result = tf.nn.relu(tensor) + falling
    return Laid(
        result * call.attribute("gamma", _SELU_GAMMA) if name == "Selu" else result, call[0].axes
    )


_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
"""Defaults of the standard (ONNX operator Selu)."""


@operator("Gelu")
def gelu(call: Call) -> Laid:
    """`x` times the normal distribution's share below x, or its approximation by tanh."""
    import tensorflow as tf

    approximate = call.attribute("approximate", "none") == "tanh"
    return Laid(tf.nn.gelu(call[0].tensor, approximate=approximate), call[0].axes)


@operator("Swish")
def swish(call: Call) -> Laid:
    """`x * sigmoid(alpha * x)`."""
    import tensorflow as tf

    tensor = call[0].tensor
    return Laid(tensor * tf.sigmoid(tensor * call.attribute("alpha", 1.0)), call[0].axes)


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Laid:
    """`max(0, min(1, alpha * x + beta))`."""
    import tensorflow as tf

    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    return Laid(tf.clip_by_value(call[0].tensor * alpha + beta, 0.0, 1.0), call[0].axes)


@operator("Shrink")
def shrink(call: Call) -> Laid:
    """Zero within `lambd` of zero, `bias` nearer to zero outside."""
    import tensorflow as tf

    tensor, zero = call[0].tensor, tf.zeros_like(call[0].tensor)
    bias, limit = call.attribute("bias", 0.0), call.attribute("lambd", 0.5)
    above = tf.where(tensor > limit, tensor - bias, zero)
    return Laid(tf.where(tensor < -limit, tensor + bias, above), call[0].axes)


@operator("PRelu", trainable=(1,))
def prelu(call: Call) -> Laid:
    """`x` above zero, `slope * x` below; the slope broadcasts to x."""
    import tensorflow as tf

    (data, slope), axes = broadcast([call[0], call[1]])
    return Laid(tf.nn.relu(data) - slope * tf.nn.relu(-data), axes)


@operator("Softmax", "LogSoftmax")
def softmax(call: Call) -> Laid:
    """Along one axis, by default the last (opset 13 and later)."""
    import tensorflow as tf

    data, axes = _axis_last(call)
    return Laid(
        (tf.nn.softmax if call.node.op_type == "Softmax" else tf.nn.log_softmax)(data), axes
    )


@operator("Hardmax")
def hardmax(call: Call) -> Laid:
    """One at the first maximum along an axis, zero elsewhere."""
    import tensorflow as tf

    data, axes = _axis_last(call)
    return Laid(tf.one_hot(tf.argmax(data, -1), data.shape[-1], dtype=data.dtype), axes)


def _axis_last(call: Call) -> tuple[Any, tuple[int | None, ...]]:
    """Returns the data with the node's axis physically last, where TFLite's Softmax wants it."""
    data = call[0]
    axis = call.attribute("axis", -1) % data.rank
    if data.physical(axis) == len(data.axes) - 1:
        return data.tensor, data.axes
    order = (*(item for item in natural(data.rank) if item != axis), axis)
    return arrange(data, order), order
