"""MatMul, Gemm and Einsum."""

from __future__ import annotations

from trimtab.engine.layout import Laid, laid, onnx_order
from trimtab.engine.registry import Call, operator


@operator("MatMul", trainable=(0, 1))
def matmul(call: Call) -> Laid:
    """Matrix product as numpy's: leading axes broadcast, a vector is a row left, a column right."""
    import tensorflow as tf

    left, right = call.tensor(0), call.tensor(1)
    row, column = call[0].rank == 1, call[1].rank == 1
    result = tf.matmul(left[None, :] if row else left, right[:, None] if column else right)
    if row:
        result = tf.squeeze(result, -2)
    return laid(tf.squeeze(result, -1) if column else result)


@operator("Gemm", trainable=(1, 2))
def gemm(call: Call) -> Laid:
    """`alpha * A' * B' + beta * C`, where `'` transposes if `transA` or `transB` says so."""
    import tensorflow as tf

    left = call.tensor(0)
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


@operator("Einsum", trainable=(0, 1, 2, 3))
def einsum(call: Call) -> Laid:
    """Einstein's summation; TensorFlow reads the same equations."""
    import tensorflow as tf

    tensors = [call.tensor(index) for index in range(len(call.inputs))]
    return laid(tf.einsum(call.attribute("equation").replace(" ", ""), *tensors))
