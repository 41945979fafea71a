"""MatMul and Gemm."""

from __future__ import annotations

from trimtab.engine.layout import Laid, laid, onnx_order
from trimtab.engine.registry import Call, operator


@operator("MatMul", trainable=(0, 1))
def matmul(call: Call) -> Laid:
    """Matrix product with numpy's broadcasting over the leading axes."""
    import tensorflow as tf

    return laid(tf.matmul(onnx_order(call[0]), onnx_order(call[1])))


@operator("Gemm", trainable=(1, 2))
def gemm(call: Call) -> Laid:
    """`alpha * A' * B' + beta * C`, where `'` transposes if `transA` or `transB` says so."""
    import tensorflow as tf

    left = onnx_order(call[0])
    if call.attribute("transA", 0):
        left = tf.transpose(left)
    right = call.weight(1, (1, 0) if call.attribute("transB", 0) else (0, 1))
    result = tf.matmul(left, right)
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    if alpha != 1.0:
        result = result * alpha
    if call.has(2):
        bias = onnx_order(call[2])
        result = result + (bias if beta == 1.0 else bias * beta)
    return laid(result)
