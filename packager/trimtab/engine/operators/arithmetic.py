"""Operators that compute on each element alone, in whatever order the operands lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, broadcast
from trimtab.engine.operators.unary import unary
from trimtab.engine.registry import Call, operator

unary("Exp", lambda tf, x: tf.exp(x))
unary("Log", lambda tf, x: tf.math.log(x))
unary("Sqrt", lambda tf, x: tf.sqrt(x))
unary("Reciprocal", lambda tf, x: tf.math.reciprocal(x))
unary("Neg", lambda tf, x: tf.negative(x))
unary("Abs", lambda tf, x: tf.abs(x))
unary("Erf", lambda tf, x: tf.math.erf(x))
unary("Sign", lambda tf, x: tf.sign(x))
unary("Floor", lambda tf, x: tf.floor(x))
unary("Ceil", lambda tf, x: tf.math.ceil(x))
unary("Round", lambda tf, x: tf.round(x))
unary("Sin", lambda tf, x: tf.sin(x))
unary("Cos", lambda tf, x: tf.cos(x))
unary("Tan", lambda tf, x: tf.tan(x))
unary("Asin", lambda tf, x: tf.asin(x))
unary("Acos", lambda tf, x: tf.acos(x))
unary("Atan", lambda tf, x: tf.atan(x))
unary("Sinh", lambda tf, x: tf.sinh(x))
unary("Cosh", lambda tf, x: tf.cosh(x))
unary("Asinh", lambda tf, x: tf.asinh(x))
unary("Acosh", lambda tf, x: tf.acosh(x))
unary("Atanh", lambda tf, x: tf.atanh(x))
unary("Identity", lambda _, x: x)


def _binary(name: str, function: Callable[[Any, Any, Any], Any], *, trainable: bool) -> None:
    """Registers `function(tf, a, b)` for an operator that broadcasts."""

    @operator(name, trainable=(0, 1) if trainable else ())
    def apply(call: Call) -> Laid:
        import tensorflow as tf

        (left, right), axes = broadcast([call[0], call[1]])
        return Laid(function(tf, left, right), axes)


def _power(tf: Any, base: Any, exponent: Any) -> Any:
    """The exponent may be of another type than the base, which gives its type to the result."""
    floating = tf.as_dtype(base.dtype).is_floating
    return tf.pow(base, tf.cast(exponent, base.dtype) if floating else exponent)


def _divide(tf: Any, left: Any, right: Any) -> Any:
    """Integers divide towards zero (ONNX operator Div)."""
    integer = tf.as_dtype(left.dtype).is_integer
    return tf.truncatediv(left, right) if integer else tf.divide(left, right)


_binary("Add", lambda tf, a, b: tf.add(a, b), trainable=True)
_binary("Sub", lambda tf, a, b: tf.subtract(a, b), trainable=True)
_binary("Mul", lambda tf, a, b: tf.multiply(a, b), trainable=True)
_binary("Div", _divide, trainable=False)
_binary("Pow", _power, trainable=False)


@operator("Mod")
def modulo(call: Call) -> Laid:
    """The remainder has the divisor's sign, or with `fmod` the dividend's."""
    import tensorflow as tf

    (left, right), axes = broadcast([call[0], call[1]])
    if not call.attribute("fmod", 0):
        return Laid(tf.math.floormod(left, right), axes)
    if tf.as_dtype(left.dtype).is_integer:
        return Laid(left - tf.truncatediv(left, right) * right, axes)
    return Laid(tf.raw_ops.TruncateMod(x=left, y=right), axes)


@operator("Max", "Min", "Sum", "Mean")
def several(call: Call) -> Laid:
    """Element-wise over any number of operands."""
    import tensorflow as tf

    tensors, axes = broadcast([call[index] for index in range(len(call.inputs))])
    name = call.node.op_type
    choose = {"Max": tf.maximum, "Min": tf.minimum}.get(name, tf.add)
    result = tensors[0]
    for tensor in tensors[1:]:
        result = choose(result, tensor)
    return Laid(result / len(tensors) if name == "Mean" else result, axes)


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


@operator("Cast", "CastLike")
def cast(call: Call) -> Laid:
    """To another of numpy's data types or bfloat16; not of 8-bit floats and 4-bit integers."""
    import onnx_ir as ir
    import tensorflow as tf

    data = call[0]
    if call.node.op_type == "Cast":
        wished = np.dtype(ir.DataType(call.attribute("to")).numpy())
    else:
        wished = _numpy_type(call[1].tensor)
    present = _numpy_type(data.tensor)
    if not _is_known(wished) or not _is_known(present):
        raise call.unsupported(f"from {present} to {wished}")
    return Laid(tf.cast(data.tensor, wished), data.axes)


def _is_known(dtype: Any) -> bool:
    return bool(dtype.name == "bfloat16" or (dtype.isbuiltin == 1 and dtype.kind != "O"))


def _numpy_type(tensor: Any) -> Any:
    import tensorflow as tf

    return np.dtype(tf.as_dtype(tensor.dtype).as_numpy_dtype)
