"""Graphs for tests of int8 quantization, one for each placement rule.

Weights are scaled as trained ones are (He et al. 2015), so that activations keep their size from
layer to layer. Inputs have a free batch axis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from support.graphs import GraphBuilder


class TrainedLike(GraphBuilder):
    """Makes weights whose products have about the variance of what they multiply."""

    def weight(self, *shape: int) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        spread = np.sqrt(2 / fan_in) if len(shape) > 1 else 0.1
        return self.constant(self.rng.normal(0, spread, shape), np.float32)


def residual() -> ir.Model:
    b = TrainedLike(3, 12, 12)
    x = b.conv_relu("x", 3, 8)
    y = b.conv(b.conv_relu(x, 8, 8), 8, 8)
    return b.classifier(b.op("Relu", b.op("Add", x, y)), 8)


def concat() -> ir.Model:
    b = TrainedLike(3, 12, 12)
    left, right = b.conv_relu("x", 3, 8), b.conv("x", 3, 8)
    joined = b.op("Concat", left, right, axis=1)
    return b.classifier(b.conv_relu(joined, 16, 8), 8)


def depthwise() -> ir.Model:
    b = TrainedLike(3, 12, 12)
    x = b.conv_relu("x", 3, 8)
    x = b.conv(x, 8, 8, group=8)
    x = b.op("Clip", x, b.constant(0, np.float32), b.constant(6, np.float32))
    return b.classifier(b.conv(x, 8, 8, kernel=1), 8)


def pooling() -> ir.Model:
    b = TrainedLike(3, 12, 12)
    x = b.op("MaxPool", b.conv_relu("x", 3, 8), kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("AveragePool", b.conv_relu(x, 8, 8), kernel_shape=[2, 2], strides=[2, 2])
    flat = b.op("Reshape", x, b.constant([-1, 8 * 3 * 3]))
    return b.build(b.op("Gemm", flat, b.weight(5, 72), b.weight(5), transB=1))


def one_dimensional() -> ir.Model:
    """Channels last at the input, as from Keras, and a Softmax at the end."""
    b = TrainedLike(32, 6)
    x = b.op("Transpose", "x", perm=[0, 2, 1])
    x = b.conv_relu(x, 6, 8, rank=1)
    x = b.op("MaxPool", x, kernel_shape=[2], strides=[2])
    x = b.conv_relu(x, 8, 8, rank=1)
    flat = b.op("Flatten", b.op("GlobalAveragePool", x))
    logits = b.op("Gemm", flat, b.weight(5, 8), b.weight(5), transB=1)
    return b.build(b.op("Softmax", logits, axis=-1))


def perceptron() -> ir.Model:
    b = TrainedLike(20)
    x = b.op("Relu", b.op("Gemm", "x", b.weight(16, 20), b.weight(16), transB=1))
    return b.build(b.op("MatMul", x, b.weight(16, 5)))


def shared() -> ir.Model:
    """One convolution read twice, over inputs of different ranges, as in a Siamese network."""
    b = TrainedLike(8, 12, 12)
    weight, bias = b.weight(8, 8, 3, 3), b.weight(8)
    x = b.op("Relu", b.op("Conv", "x", weight, bias, pads=[1, 1, 1, 1]))
    return b.classifier(b.op("Relu", b.op("Conv", x, weight, bias, pads=[1, 1, 1, 1])), 8)


GRAPHS: dict[str, Callable[[], ir.Model]] = {
    make.__name__: make
    for make in (residual, concat, depthwise, pooling, one_dimensional, perceptron, shared)
}
