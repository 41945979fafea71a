"""QuantizeLinear and DequantizeLinear, with one scale per tensor, channel or block.

A pair around an activation or a trained weight becomes one fake quantization: float in, float
out, on the integer grid. That is what the TFLite converter reads as "this tensor is int8", and
what trains with straight-through gradients (Bengio et al. 2013, "Estimating or Propagating
Gradients Through Stochastic Neurons", section 4): a number within the range passes its gradient
on, one outside does not. A scale that is marked (`engine.learned_scales`) is trained too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from trimtab.engine.layout import Laid, laid, natural, onnx_order
from trimtab.engine.learned_scales import highest_code, is_learned
from trimtab.engine.operators.fake_quantize import damping, fake_quantize
from trimtab.engine.registry import Call, Weight, operator
from trimtab.graph.access import constant

_STORED = ("int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16", "int32")
_WRITTEN = ("int8", "uint8", "int16", "uint16")
"""TensorFlow computes with these; narrower ones exist in pairs and in stored weights only."""

_FAKE_QUANT_BITS = {255: 8, 65535: 16}
"""By the number of steps: what the TFLite converter reads as int8 and int16."""


@operator("QuantizeLinear", trainable=(0,))
def quantize_linear(call: Call) -> Laid:
    """`clip(round(x / s) + z, qmin, qmax)`, or what a pair gives back: `s * (that - z)`."""
    import tensorflow as tf

    kind = _output_type(call)
    low, high = _limits(call, kind)
    if not _starts_pair(call):
        if kind.name not in _WRITTEN:
            raise call.unsupported(f"to {kind} outside of a pair")
        steps, _, zero = _steps(call)
        rounded = tf.clip_by_value(tf.round(steps) + zero, low, high)
        return laid(tf.cast(rounded, kind))
    if not call[1].is_constant and is_learned(call.node.inputs[1]):
        return _learned(call, low, high)
    if call[1].is_constant and call.array(1).size == 1 and high - low in _FAKE_QUANT_BITS:
        return _fake_quantized(call, low, high)
    steps, scale, zero = _steps(call)
    inside = tf.clip_by_value(steps, low - zero, high - zero)
    return laid((inside + tf.stop_gradient(tf.round(inside) - inside)) * scale)


def _fake_quantized(call: Call, low: int, high: int) -> Laid:
    """One scale, 8 or 16 bits: TensorFlow's fake quantization, `[s * (qmin - z), s * (qmax - z)]`.

    It nudges the range so that zero falls on the grid, which it does already.
    """
    import tensorflow as tf

    data = call[0]
    step = float(call.array(1).item())
    zero = int(call.array(2).item()) if call.has(2) else 0
    ends, bits = (step * (low - zero), step * (high - zero)), _FAKE_QUANT_BITS[high - low]
    result = tf.quantization.fake_quant_with_min_max_args(data.tensor, *ends, num_bits=bits)
    return Laid(result, data.axes)


def _learned(call: Call, low: int, high: int) -> Laid:
    """A grid whose scale is trained: one scale for activations, or for each channel of weights."""
    import tensorflow as tf

    scale, stored = call[1].tensor, call.weights[0]
    if stored is not None:
        return _learned_weight(call, stored, scale)
    data, zero = call[0], call.array(2).item() if call.has(2) else 0
    samples = tf.shape(data.tensor)[data.physical(0)]
    share = damping(tf.size(data.tensor) / tf.maximum(samples, 1), high)
    scale = tf.reshape(scale, ())
    result = fake_quantize(data.tensor, scale, low - zero, high - zero, damping=share)
    return Laid(result, data.axes)


def _learned_weight(call: Call, stored: Weight, scale: Any) -> Laid:
    """A weight's grid has as many codes below zero as above."""
    import tensorflow as tf

    weight, channels = stored(natural(call[0].rank)), scale.shape.num_elements()
    shape = () if channels == 1 else _channels(call, len(weight.shape))
    highest = highest_code(_output_type(call))
    share = damping(weight.shape.num_elements() / channels, highest)
    step = tf.reshape(scale, shape)
    return laid(fake_quantize(weight, step, -highest, highest, damping=share))


def _steps(call: Call) -> tuple[Any, Any, Any]:
    """Returns the data in steps of the grid, and scale and zero point as they broadcast to it."""
    import tensorflow as tf

    stored = call.weights[0]
    tensor = onnx_order(call[0]) if stored is None else stored(natural(call[0].rank))
    scale = _spread(call, call.array(1).astype(np.float32), tensor.shape)
    zero = _zero_point(call)
    return tf.cast(tensor, tf.float32) / scale, scale, _spread(call, zero, tensor.shape)


@operator("DequantizeLinear")
def dequantize_linear(call: Call) -> Laid:
    """Stored integers to float, or the second half of a pair.

    The TFLite converter quantizes constants that meet int8 activations itself, symmetrically and
    per output channel, and finds the same grid again: the largest stored value of a channel is
    127, so its largest real one is 127 scales.
    """
    import tensorflow as tf

    producer = call.node.inputs[0].producer() if call.node.inputs[0] is not None else None
    if producer is not None and producer.op_type == "QuantizeLinear":
        return call[0]
    stored = onnx_order(call[0])
    kind = np.dtype(tf.as_dtype(stored.dtype).as_numpy_dtype)
    if kind.name not in _STORED:
        raise call.unsupported(f"of {kind}")
    scale = call.array(1)
    zero = _spread(call, _zero_point(call), stored.shape)
    numbers = (
        stored.astype(np.float32) if call[0].is_constant else tf.cast(stored, tf.float32)
    ) - zero
    real = numbers * _spread(call, scale.astype(np.float32), stored.shape)
    wished = (
        ir.DataType(call.attribute("output_dtype", 0)).numpy()
        if call.attribute("output_dtype", 0)
        else scale.dtype
    )
    return laid(real if wished == np.float32 else tf.cast(real, wished))


def _zero_point(call: Call) -> Any:
    return call.array(2).astype(np.float32) if call.has(2) else np.zeros((), np.float32)


def _spread(call: Call, values: Any, shape: Any) -> Any:
    """Brings a scale or zero point into a form that broadcasts to the data's shape."""
    axis, block = call.attribute("axis", 1), call.attribute("block_size", 0)
    if values.ndim > 1 or (values.size > 1 and block):
        repeated = np.repeat(values, block, axis % values.ndim)
        return np.take(repeated, range(int(shape[axis])), axis % values.ndim)
    if values.size == 1:
        return values.reshape(())
    return values.reshape(_channels(call, len(shape)))


def _channels(call: Call, rank: int) -> list[int]:
    """Returns the shape in which one number for each channel broadcasts."""
    along = [1] * rank
    along[call.attribute("axis", 1) % rank] = -1
    return along


def _output_type(call: Call) -> Any:
    """Returns the numpy type that a QuantizeLinear makes."""
    if call.has(2):
        return call.array(2).dtype
    return ir.DataType(call.attribute("output_dtype", 0) or ir.DataType.UINT8).numpy()


def _limits(call: Call, kind: Any) -> tuple[int, int]:
    import ml_dtypes

    if kind.name not in _STORED:
        raise call.unsupported(f"to {kind}")
    limits: Any = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
    return int(limits.min), int(limits.max)


def _starts_pair(call: Call) -> bool:
    """Says whether a QuantizeLinear is read by DequantizeLinear, and then by nothing else.

    Raises:
        UnsupportedOperatorError: By something else too, or on another scale.
    """
    output = call.node.outputs[0]
    uses = list(output.uses())
    if all(use.node.op_type != "DequantizeLinear" for use in uses):
        return False
    for use in uses:
        if use.node.op_type != "DequantizeLinear" or not _same_grid(call.node, use.node):
            raise call.unsupported(f"read by {use.node.op_type} {use.node.name!r} on another scale")
    if output.is_graph_output():
        raise call.unsupported("as an output of the graph")
    return True


def _same_grid(quantize: ir.Node, dequantize: ir.Node) -> bool:
    for index in (1, 2):
        one, other = (
            constant(node.inputs[index]) if index < len(node.inputs) else None
            for node in (quantize, dequantize)
        )
        if (one is None) != (other is None):
            return False
        if one is not None and other is not None and not np.array_equal(one, other):
            return False
    return True
