"""Keeps float layers of a quantized graph float in ONNX Runtime.

ONNX Runtime 1.31 quantizes a layer that a graph leaves in float where codes come in and go out:
its WeightBiasQuantization pass gives the float weights of a Conv, ConvTranspose or Gemm between a
DequantizeLinear and a QuantizeLinear int8 codes with one scale for the whole tensor
(onnxruntime/core/optimizer/qdq_transformer/weight_bias_quantization.cc). With the depthwise
convolutions of EfficientNet-Lite0 left in float, that lowers the signal-to-noise ratio of the
logits from 17 to 9 dB, where nothing was asked for but more accuracy.

No session option turns the pass off. It passes over a layer whose bias is not a constant, and
constant folding leaves DequantizeLinear alone, so such a layer's bias is stored as int32 codes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import add_initializer, attribute, constant, only_consumer

_REWRITTEN = frozenset({"Conv", "ConvTranspose", "Gemm"})
_CODE_MAX = 2**30


def shield_float_layers(graph: ir.Graph) -> None:
    """Stores the biases of float layers between codes as int32, in place.

    A layer without a bias gets one of zeros. The codes hold 30 bits and a sign, more than float32.
    """
    for node in list(graph):
        if node.op_type in _REWRITTEN and not node.domain and _lies_between_codes(node):
            _store_bias(node, graph)


def _lies_between_codes(node: ir.Node) -> bool:
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or source.op_type != "DequantizeLinear" or constant(node.inputs[1]) is None:
        return False
    follower = only_consumer(node.outputs[0])
    while follower is not None and follower.op_type in {"Relu", "Clip"}:
        follower = only_consumer(follower.outputs[0])
    return follower is not None and follower.op_type == "QuantizeLinear"


def _store_bias(node: ir.Node, graph: ir.Graph) -> None:
    weights = constant(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant(given)
    if given is None:
        bias = np.zeros(_outputs(node, weights), np.float32)
    if bias is None or weights is None:
        return  # it is computed: the pass leaves the layer alone
    extent = float(np.abs(bias).max(initial=0.0))
    scale = np.float32(extent / _CODE_MAX if extent else 1.0)
    operands = [
        add_initializer(
            graph, f"{node.name}.bias_codes", np.rint(bias / np.float64(scale)).astype(np.int32)
        ),
        add_initializer(graph, f"{node.name}.bias_codes_scale", np.asarray(scale)),
    ]
    to_real = ir.node("DequantizeLinear", operands, name=f"{operands[0].name}_dequantize")
    real = to_real.outputs[0]
    real.shape, real.type = ir.Shape(bias.shape), ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, to_real)
    node.resize_inputs(3)
    node.replace_input_with(2, real)


def _outputs(node: ir.Node, weights: np.ndarray | None) -> int:
    """Counts the output channels of a layer by its weights."""
    assert weights is not None
    if node.op_type == "Conv":
        return len(weights)
    if node.op_type == "ConvTranspose":
        return int(weights.shape[1] * attribute(node, "group", 1))
    return int(weights.shape[0 if attribute(node, "transB", 0) else 1])
