"""Operators that work on each element alone, in whatever order the operands lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, arrange, broadcast, natural
from trimtab.engine.registry import Call, operator


def _unary(name: str, function: Callable[[Any, Any], Any]) -> None:
    """Registers `function(tf, x)` for an operator without attributes."""

    @operator(name)
    def apply(call: Call) -> Laid:
        import tensorflow as tf

        return Laid(function(tf, call[0].tensor), call[0].axes)


_unary("Relu", lambda tf, x: tf.nn.relu(x))
_unary("Sigmoid", lambda tf, x: tf.sigmoid(x))
_unary("Tanh", lambda tf, x: tf.tanh(x))
_unary("Exp", lambda tf, x: tf.exp(x))
_unary("Log", lambda tf, x: tf.math.log(x))
_unary("Sqrt", lambda tf, x: tf.sqrt(x))
_unary("Reciprocal", lambda tf, x: tf.math.reciprocal(x))
_unary("Neg", lambda tf, x: tf.negative(x))
_unary("Abs", lambda tf, x: tf.abs(x))
_unary("Erf", lambda tf, x: tf.math.erf(x))
_unary("Softplus", lambda tf, x: tf.math.softplus(x))
_unary("Softsign", lambda tf, x: tf.math.softsign(x))
_unary("HardSwish", lambda tf, x: x * tf.nn.relu6(x + 3.0) * np.float32(1 / 6))
_unary("Identity", lambda _, x: x)


def _binary(name: str, function: Callable[[Any, Any, Any], Any], *, trainable: bool) -> None:
    """Registers `function(tf, a, b)` for an operator that broadcasts."""

    @operator(name, trainable=(0, 1) if trainable else ())
    def apply(call: Call) -> Laid:
        import tensorflow as tf

        (left, right), axes = broadcast([call[0], call[1]])
        return Laid(function(tf, left, right), axes)


_binary("Add", lambda tf, a, b: tf.add(a, b), trainable=True)
_binary("Sub", lambda tf, a, b: tf.subtract(a, b), trainable=True)
_binary("Mul", lambda tf, a, b: tf.multiply(a, b), trainable=True)


def _power(tf: Any, base: Any, exponent: Any) -> Any:
    """The exponent may be of another type than the base, which gives its type to the result."""
    floating = tf.as_dtype(base.dtype).is_floating
    return tf.pow(base, tf.cast(exponent, base.dtype) if floating else exponent)


def _divide(tf: Any, left: Any, right: Any) -> Any:
    """Integers divide towards zero (ONNX operator Div)."""
    integer = tf.as_dtype(left.dtype).is_integer
    return tf.truncatediv(left, right) if integer else tf.divide(left, right)


_binary("Div", _divide, trainable=False)
_binary("Pow", _power, trainable=False)


@operator("Max", "Min")
def extreme(call: Call) -> Laid:
    """Element-wise maximum or minimum of any number of operands."""
    import tensorflow as tf

    tensors, axes = broadcast([call[index] for index in range(len(call.inputs))])
    choose = tf.maximum if call.node.op_type == "Max" else tf.minimum
    result = tensors[0]
    for tensor in tensors[1:]:
        result = choose(result, tensor)
    return Laid(result, axes)


@operator("Clip")
def clip(call: Call) -> Laid:
    """Clips to `[min, max]`, either of which may be absent."""
    import tensorflow as tf

    data = call[0]
    dtype = tf.as_dtype(data.tensor.dtype)
    nothing = (dtype.min, dtype.max) if dtype.is_integer else (-np.inf, np.inf)
    low = call.array(1).item() if call.has(1) else call.attribute("min", nothing[0])
    high = call.array(2).item() if call.has(2) else call.attribute("max", nothing[1])
    if (low, high) == (0.0, 6.0) and dtype == tf.float32:
        return Laid(tf.nn.relu6(data.tensor), data.axes)  # an operator of its own in TFLite
    if (low, high) == (0.0, np.inf):
        return Laid(tf.nn.relu(data.tensor), data.axes)
    # Where min is above max, max wins, which is not so for tf.clip_by_value.
    return Laid(tf.minimum(tf.maximum(data.tensor, low), high), data.axes)


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Laid:
    """`x` above zero, `alpha * x` below."""
    import tensorflow as tf

    return Laid(tf.nn.leaky_relu(call[0].tensor, call.attribute("alpha", 0.01)), call[0].axes)


@operator("Elu")
def elu(call: Call) -> Laid:
    """`x` above zero, `alpha * (exp(x) - 1)` below."""
    import tensorflow as tf

    tensor, alpha = call[0].tensor, call.attribute("alpha", 1.0)
    if alpha == 1.0:
        return Laid(tf.nn.elu(tensor), call[0].axes)
    return Laid(tf.where(tensor > 0, tensor, alpha * (tf.exp(tensor) - 1)), call[0].axes)


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Laid:
    """`max(0, min(1, alpha * x + beta))`."""
    import tensorflow as tf

    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    return Laid(tf.clip_by_value(call[0].tensor * alpha + beta, 0.0, 1.0), call[0].axes)


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

    data = call[0]
    axis = call.attribute("axis", -1)
    function = tf.nn.softmax if call.node.op_type == "Softmax" else tf.nn.log_softmax
    # TFLite's Softmax knows the last axis only.
    if data.physical(axis) == len(data.axes) - 1:
        return Laid(function(data.tensor), data.axes)
    order = tuple(item for item in natural(data.rank) if item != axis % data.rank)
    order = (*order, axis % data.rank)
    return Laid(function(arrange(data, order)), order)


@operator("BatchNormalization", trainable=(1, 2))
def batch_normalization(call: Call) -> Laid:
    """Inference form: `(x - mean) / sqrt(var + epsilon) * scale + bias`, per channel."""
    if call.attribute("training_mode", 0):
        raise call.unsupported("in training mode")
    data = call[0]
    epsilon = call.attribute("epsilon", 1e-5)
    mean, variance = call.array(3), call.array(4)
    shape = [1] * len(data.axes)
    shape[data.physical(1)] = -1
    inverse = (1 / np.sqrt(variance + epsilon)).astype(np.float32)
    scale = call.weight(1, (0,)) * inverse
    shift = call.weight(2, (0,)) - scale * mean.astype(np.float32)
    return Laid(data.tensor * _reshape(scale, shape) + _reshape(shift, shape), data.axes)


def _reshape(tensor: Any, shape: list[int]) -> Any:
    import tensorflow as tf

    return tf.reshape(tensor, shape)
