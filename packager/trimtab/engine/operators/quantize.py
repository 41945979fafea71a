"""QuantizeLinear and DequantizeLinear.

A pair around an activation becomes one fake quantization: float in, float out, on the integer
grid. That is what the TFLite converter reads as "this tensor is int8", and what trains with
straight-through gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from trimtab.engine.layout import Laid
from trimtab.engine.registry import Call, operator
from trimtab.graph.access import constant


@operator("QuantizeLinear")
def quantize_linear(call: Call) -> Laid:
    """An activation onto its grid; the DequantizeLinear that follows passes it on.

    The pair is `s * (clip(round(x / s) + z, qmin, qmax) - z)`. TensorFlow's fake quantization
    computes that from the range `[s * (qmin - z), s * (qmax - z)]` with 8 bits, and nudges the
    range so that zero falls on the grid, which it does already.
    """
    import tensorflow as tf

    data = call[0]
    _check_pair(call)
    scale, zero_point, low, high = _grid(call)
    if scale.size != 1:
        raise call.unsupported("with per-channel scales on an activation")
    step, zero = float(scale.reshape(())), int(zero_point.reshape(()))
    result = tf.quantization.fake_quant_with_min_max_args(
        data.tensor, step * (low - zero), step * (high - zero), num_bits=8
    )
    return Laid(result, data.axes)


@operator("DequantizeLinear")
def dequantize_linear(call: Call) -> Laid:
    """A stored integer weight to float, or the second half of a pair around an activation."""
    producer = call.node.inputs[0].producer() if call.node.inputs[0] is not None else None
    if producer is not None and producer.op_type == "QuantizeLinear":
        return call[0]
    if call.attribute("block_size", 0):
        raise call.unsupported("with one scale per block")
    # A weight, or a bias. The TFLite converter quantizes constants that meet int8 activations
    # itself, symmetrically and per output channel, and finds the same grid again: the largest
    # stored value of a channel is 127, so its largest real one is 127 scales.
    return Laid(_dequantized(call, call.array(0)), call[0].axes)


def _check_pair(call: Call) -> None:
    """Checks that all that reads the integers turns them back with the same scale and zero point.

    Raises:
        UnsupportedOperatorError: Something else reads them.
    """
    output = call.node.outputs[0]
    for use in output.uses():
        if use.node.op_type != "DequantizeLinear" or not _same_grid(call.node, use.node):
            raise call.unsupported(f"read by {use.node.op_type} {use.node.name!r} on another scale")
    if output.is_graph_output():
        raise call.unsupported("as an output of the graph")


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


def _grid(call: Call) -> tuple[Any, Any, int, int]:
    """Returns scale, zero point and the ends of the integer type."""
    scale = np.asarray(call.array(1))
    wished = ir.DataType(call.attribute("output_dtype", 0) or ir.DataType.UINT8).numpy()
    zero_point = np.asarray(call.array(2)) if call.has(2) else np.zeros((), wished)
    if zero_point.dtype not in (np.int8, np.uint8):
        raise call.unsupported(f"to {zero_point.dtype}")
    limits = np.iinfo(zero_point.dtype)
    return scale, zero_point, int(limits.min), int(limits.max)


def _dequantized(call: Call, stored: Any) -> Any:
    if stored.dtype not in (np.int8, np.uint8, np.int32):
        raise call.unsupported(f"of {stored.dtype}")
    scale = np.asarray(call.array(1), np.float32)
    zero = np.asarray(call.array(2), np.int32) if call.has(2) else np.zeros((), np.int32)
    if scale.size > 1:
        shape = [1] * stored.ndim
        shape[call.attribute("axis", 1) % stored.ndim] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape if zero.size > 1 else ())
    return ((stored.astype(np.int32) - zero) * scale).astype(np.float32)
