"""Comparisons, truth values, bits, and the choice between two values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trimtab.engine.layout import Laid, broadcast
from trimtab.engine.operators.unary import unary
from trimtab.engine.registry import Call, operator

unary("Not", lambda tf, x: tf.logical_not(x))
unary("IsNaN", lambda tf, x: tf.math.is_nan(x))
unary("BitwiseNot", lambda tf, x: tf.bitwise.invert(x))

_FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "Equal": lambda tf, a, b: tf.equal(a, b),
    "Greater": lambda tf, a, b: tf.greater(a, b),
    "GreaterOrEqual": lambda tf, a, b: tf.greater_equal(a, b),
    "Less": lambda tf, a, b: tf.less(a, b),
    "LessOrEqual": lambda tf, a, b: tf.less_equal(a, b),
    "And": lambda tf, a, b: tf.logical_and(a, b),
    "Or": lambda tf, a, b: tf.logical_or(a, b),
    "Xor": lambda tf, a, b: tf.not_equal(a, b),
    "BitwiseAnd": lambda tf, a, b: tf.bitwise.bitwise_and(a, b),
    "BitwiseOr": lambda tf, a, b: tf.bitwise.bitwise_or(a, b),
    "BitwiseXor": lambda tf, a, b: tf.bitwise.bitwise_xor(a, b),
}


@operator(*_FUNCTIONS)
def binary(call: Call) -> Laid:
    """Two operands that broadcast."""
    import tensorflow as tf

    (left, right), axes = broadcast([call[0], call[1]])
    return Laid(_FUNCTIONS[call.node.op_type](tf, left, right), axes)


@operator("IsInf")
def is_infinite(call: Call) -> Laid:
    """Infinities of either sign, or of the signs asked for."""
    import tensorflow as tf

    tensor = call[0].tensor
    # TFLite's kernels take tf.math.is_inf for never true.
    result = tf.abs(tensor) > tf.as_dtype(tensor.dtype).max
    if not call.attribute("detect_positive", 1):
        result = tf.logical_and(result, tensor < 0)
    if not call.attribute("detect_negative", 1):
        result = tf.logical_and(result, tensor > 0)
    return Laid(result, call[0].axes)


@operator("Where")
def where(call: Call) -> Laid:
    """Element-wise choice."""
    import tensorflow as tf

    (condition, yes, no), axes = broadcast([call[0], call[1], call[2]])
    return Laid(tf.where(condition, yes, no), axes)
