"""Small ONNX graphs for tests of graph techniques, one for each way that channels can be tied.

Weights come from a seeded generator, so that every run sees the same graphs. Inputs have a free
batch axis. All graphs end in a classifier with 5 outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from trimtab.graph.access import infer_shapes

CLASSES = 5


class GraphBuilder:
    """Builds a graph from the input on; every method returns the name of what it made."""

    def __init__(self, *input_shape: int | str, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *input_shape])
        ]

    def constant(self, array: object, dtype: type = np.int64) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(0.1, 0.4, shape), np.float32)

    def positive(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(0.5, 1.5, shape), np.float32)

    def op(self, operator: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = [f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        node = helper.make_node(operator, list(inputs), names, **attributes)
        self.nodes.append(node)
        return names[0]

    def ops(self, operator: str, *inputs: str, outputs: int, **attributes: object) -> list[str]:
        self.op(operator, *inputs, outputs=outputs, **attributes)
        return list(self.nodes[-1].output)

    def conv(
        self, x: str, taken: int, made: int, *, kernel: int = 3, rank: int = 2, **attributes: int
    ) -> str:
        group = attributes.get("group", 1)
        weight = self.weight(made, taken // group, *[kernel] * rank)
        pads = [kernel // 2] * (2 * rank)
        return self.op("Conv", x, weight, self.weight(made), pads=pads, **attributes)

    def conv_relu(self, x: str, taken: int, made: int, **options: int) -> str:
        return self.op("Relu", self.conv(x, taken, made, **options))

    def batch_norm(self, x: str, channels: int) -> str:
        parameters = [self.weight(channels) for _ in range(3)]
        return self.op("BatchNormalization", x, *parameters, self.positive(channels))

    def classifier(self, x: str, channels: int) -> ir.Model:
        """Pools a (batch, channels, height, width) map and ends the graph."""
        pooled = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.build(self.dense(pooled, channels, CLASSES))

    def dense(self, x: str, taken: int, made: int) -> str:
        return self.op("Gemm", x, self.weight(taken, made), self.weight(made))

    def build(self, output: str) -> ir.Model:
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", CLASSES])
        graph = helper.make_graph(self.nodes, "g", self.inputs, [result], self.initializers)
        opset = helper.make_opsetid("", 17)
        model = ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=8))
        infer_shapes(model)
        return model


def plain() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 8)
    x = b.batch_norm(b.conv(x, 8, 12), 12)
    return b.classifier(b.op("LeakyRelu", x), 12)


def residual() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 8)
    y = b.conv(b.conv_relu(x, 8, 6), 6, 8)
    x = b.op("Relu", b.op("Add", x, y))
    return b.classifier(b.op("Add", b.conv(x, 8, 12), b.conv(x, 8, 12, kernel=1)), 12)


def mobile() -> ir.Model:
    """Inverted residual with a depthwise convolution and one of multiplier 2."""
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 6)
    y = b.conv_relu(x, 6, 12, kernel=1)
    y = b.op("Clip", b.conv(y, 12, 12, group=12), b.constant(0, np.float32))
    x = b.op("Add", x, b.conv(y, 12, 6, kernel=1))
    return b.classifier(b.conv(x, 6, 12, group=6), 12)


def dense_blocks() -> ir.Model:
    """As in DenseNet: each layer reads all before it."""
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 6)
    for layer in range(2):
        channels = 6 + 4 * layer
        y = b.conv_relu(b.batch_norm(x, channels), channels, 4)
        x = b.op("Concat", x, y, axis=1)
    return b.classifier(x, 14)


def joined_in_space() -> ir.Model:
    """Two maps laid side by side along the width."""
    b = GraphBuilder(3, 8, 8)
    x = b.op("Concat", b.conv("x", 3, 8), b.conv("x", 3, 8), axis=3)
    return b.classifier(b.conv_relu(x, 8, 8), 8)


def flattened() -> ir.Model:
    """Channels-last flattening of a 4 x 4 map, as Keras does it."""
    b = GraphBuilder(3, 8, 8)
    x = b.op("MaxPool", b.conv_relu("x", 3, 8), kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Transpose", x, perm=[0, 2, 3, 1])
    x = b.op("Reshape", x, b.constant([-1, 128]))
    return b.build(b.dense(b.op("Relu", b.dense(x, 128, 10)), 10, CLASSES))


def flattened_first() -> ir.Model:
    """Channels-first flattening, where the length is what is left."""
    b = GraphBuilder(3, 4, 4)
    x = b.op("Reshape", b.conv_relu("x", 3, 8), b.constant([0, -1]))
    return b.build(b.dense(x, 128, CLASSES))


def grouped() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 12)
    x = b.conv_relu(x, 12, 18, group=3)
    return b.classifier(b.conv_relu(x, 18, 8), 8)


def shuffled() -> ir.Model:
    """As in ShuffleNet: grouped convolutions with a channel shuffle between them."""
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu(b.conv_relu("x", 3, 12), 12, 16, group=2)
    x = b.op("Reshape", x, b.constant([-1, 2, 8, 8, 8]))
    x = b.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = b.op("Reshape", x, b.constant([-1, 16, 8, 8]))
    return b.classifier(b.conv_relu(x, 16, 16, group=2), 16)


def split_in_two() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 12)
    left, right = b.ops("Split", x, outputs=2, axis=1)
    y = b.op("Concat", b.conv_relu(left, 6, 6), right, axis=1)
    return b.classifier(y, 12)


def time_series() -> ir.Model:
    """(batch, time, features) with transposes around 1-D convolutions, as Keras exports it."""
    b = GraphBuilder(20, 3)
    x = b.op("Transpose", "x", perm=[0, 2, 1])
    x = b.op("Transpose", b.conv_relu(x, 3, 8, rank=1), perm=[0, 2, 1])
    x = b.op("Add", b.op("Mul", x, b.positive(8)), b.weight(8))
    x = b.op("Transpose", x, perm=[0, 2, 1])
    x = b.op("Transpose", b.conv_relu(x, 8, 12, rank=1), perm=[0, 2, 1])
    x = b.op("ReduceMean", x, axes=[1], keepdims=0)
    return b.build(b.dense(x, 12, CLASSES))


def time_series_wrapped() -> ir.Model:
    """A 1-D convolution written as a 2-D one between Unsqueeze and Squeeze, as tf2onnx does."""
    b = GraphBuilder(3, 20)
    axis = b.constant([2])
    weight = b.weight(8, 3, 1, 5)
    x = b.op("Conv", b.op("Unsqueeze", "x", axis), weight, pads=[0, 2, 0, 2])
    x = b.op("Mul", b.op("Squeeze", x, axis), b.positive(1, 8, 1))
    x = b.op("Relu", b.op("Add", x, b.weight(1, 8, 1)))
    x = b.op("MaxPool", x, kernel_shape=[2], strides=[2])
    x = b.op("Squeeze", b.op("GlobalAveragePool", x), b.constant([-1]))
    return b.build(b.dense(x, 8, CLASSES))


def perceptron() -> ir.Model:
    """Gemm with its weight either way round, MatMul, a per-step layer over time."""
    b = GraphBuilder(6, 4)
    x = b.op("Relu", b.op("MatMul", "x", b.weight(4, 8)))
    x = b.op("Reshape", x, b.constant([0, 48]))
    x = b.op("Gemm", x, b.weight(12, 48), b.weight(1, 12), transB=1)
    x = b.op("PRelu", x, b.weight(12))
    x = b.op("Tanh", b.op("Add", b.op("MatMul", x, b.weight(12, 10)), b.weight(10)))
    return b.build(b.dense(x, 10, CLASSES))


def squeeze_excitation() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 12)
    gate = b.conv_relu(b.op("GlobalAveragePool", x), 12, 4, kernel=1)
    gate = b.op("Sigmoid", b.conv(gate, 4, 12, kernel=1))
    return b.classifier(b.op("Mul", x, gate), 12)


def spatial_attention() -> ir.Model:
    """One gate for each place, shared by all channels."""
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 12)
    gate = b.op("Sigmoid", b.conv(x, 12, 1, kernel=1))
    return b.classifier(b.op("Mul", x, gate), 12)


def crossed_gate() -> ir.Model:
    """Each time step of 8 features is scaled by a gate that a layer makes for that step."""
    b = GraphBuilder(6, 4)
    x = b.op("MatMul", "x", b.weight(4, 8))
    gate = b.op("MatMul", b.op("Transpose", "x", perm=[0, 2, 1]), b.weight(6, 6))
    gate = b.op("ReduceMean", b.op("Sigmoid", gate), axes=[1], keepdims=1)
    x = b.op("Mul", x, b.op("Transpose", gate, perm=[0, 2, 1]))
    return b.build(b.dense(b.op("ReduceMean", x, axes=[1], keepdims=0), 8, CLASSES))


def bottleneck_of_one() -> ir.Model:
    """A layer with a single channel, which cannot be pruned."""
    b = GraphBuilder(3, 8, 8)
    return b.classifier(b.conv_relu(b.conv_relu("x", 3, 1), 1, 8), 8)


def encoder_decoder() -> ir.Model:
    """As in U-Net: a transposed convolution, a resize, and a connection across."""
    b = GraphBuilder(3, 8, 8)
    across = b.conv_relu("x", 3, 8)
    x = b.op("AveragePool", across, kernel_shape=[2, 2], strides=[2, 2])
    x = b.conv_relu(x, 8, 12)
    up = b.op("ConvTranspose", x, b.weight(12, 6, 2, 2), b.weight(6), strides=[2, 2])
    scales = b.constant([1, 1, 2, 2], np.float32)
    resized = b.op("Resize", x, "", scales, mode="nearest")
    return b.classifier(b.conv_relu(b.op("Concat", across, up, resized, axis=1), 26, 8), 8)


def padded_channels() -> ir.Model:
    """A shortcut widened with zero channels, as in ResNet option A, on a cropped map."""
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 8)
    wide = b.op("Pad", x, b.constant([0, 2, 0, 0, 0, 2, 0, 0]))
    crop = [b.constant([1]), b.constant([7]), b.constant([2])]
    return b.classifier(b.op("Slice", b.op("Add", wide, b.conv(x, 8, 12)), *crop), 12)


def shared_weight() -> ir.Model:
    """One kernel run on two maps."""
    b = GraphBuilder(3, 8, 8)
    kernel = b.weight(8, 6, 3, 3)
    towers = [
        b.op("Relu", b.op("Conv", b.conv_relu("x", 3, 6), kernel, pads=[1, 1, 1, 1]))
        for _ in range(2)
    ]
    return b.classifier(b.op("Concat", *towers, axis=1), 16)


def unknown_operator() -> ir.Model:
    """An operator without a rule between the second and the third layer."""
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu(b.conv_relu("x", 3, 8), 8, 6)
    x = b.op("LRN", x, size=3)
    return b.classifier(b.conv_relu(b.conv_relu(x, 6, 8), 8, 8), 8)


GRAPHS: dict[str, Callable[[], ir.Model]] = {
    make.__name__: make
    for make in (
        *(plain, residual, mobile, dense_blocks, joined_in_space, flattened, flattened_first),
        *(grouped, shuffled, split_in_two, time_series, time_series_wrapped, perceptron),
        *(
            squeeze_excitation,
            spatial_attention,
            crossed_gate,
            bottleneck_of_one,
            encoder_decoder,
            padded_channels,
        ),
        *(shared_weight, unknown_operator),
    )
}
