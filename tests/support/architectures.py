"""Small networks in the forms in which strangers' exports arrive: shapes are computed at run time.

`b.view(x, b.size(x, 0), 4, 8)` writes what PyTorch's exporter writes for `x.view(x.size(0), 4, 8)`:
Shape, Gather, Unsqueeze, Concat and Reshape. All have a free batch and 5 outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper

from support.graphs import CLASSES, GraphBuilder

WIDTH, HEADS, SIZE = 12, 4, 3


class ExportBuilder(GraphBuilder):
    """Adds what exporters compute at run time."""

    def size(self, x: str, axis: int) -> str:
        """A length, as a scalar."""
        return self.op("Gather", self.op("Shape", x), self.constant(axis), axis=0)

    def view(self, x: str, *lengths: int | str) -> str:
        return self.op("Reshape", x, self.shape(*lengths))

    def shape(self, *lengths: int | str) -> str:
        axis = self.constant([0])
        parts = [
            self.constant([length])
            if isinstance(length, int)
            else self.op("Unsqueeze", length, axis)
            for length in lengths
        ]
        return self.op("Concat", *parts, axis=0)

    def times(self, length: str, factor: int) -> str:
        return self.op("Mul", length, self.constant(factor))

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=list(perm))

    def linear(self, x: str, taken: int, made: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(taken, made)), self.weight(made))

    def norm(self, x: str, width: int = WIDTH) -> str:
        return self.op("LayerNormalization", x, self.positive(width), self.weight(width), axis=-1)

    def pooled(self, x: str, width: int = WIDTH) -> ir.Model:
        return self.build(
            self.dense(self.op("ReduceMean", x, axes=[1], keepdims=0), width, CLASSES)
        )

    def softmax_product(self, query: str, key: str, value: str) -> str:
        scores = self.op("Mul", self.op("MatMul", query, key), self.constant(0.5, np.float32))
        return self.op("MatMul", self.op("Softmax", scores, axis=-1), value)


def merged_heads_attention(b: ExportBuilder, x: str, steps: int | str) -> str:
    """nn.MultiheadAttention: steps first, three in one projection, heads merged with the batch."""
    x = b.transpose(x, 1, 0, 2)
    batch = b.size(x, 1)
    joined = b.view(b.linear(x, WIDTH, 3 * WIDTH), steps, batch, 3, WIDTH)
    joined = b.transpose(joined, 2, 0, 1, 3)
    parts = [b.op("Gather", joined, b.constant(part), axis=0) for part in range(3)]
    query, key, value = (
        b.transpose(b.view(part, steps, b.times(batch, HEADS), SIZE), 1, 0, 2) for part in parts
    )
    heads = b.softmax_product(query, b.transpose(key, 0, 2, 1), value)
    flat = b.view(b.transpose(heads, 1, 0, 2), -1, WIDTH)
    flat = b.op("Gemm", flat, b.weight(WIDTH, WIDTH), b.weight(WIDTH), transB=1)
    return b.transpose(b.view(flat, steps, batch, WIDTH), 1, 0, 2)


def torch_attention() -> ir.Model:
    b = ExportBuilder(6, WIDTH)
    return b.pooled(merged_heads_attention(b, "x", 6))


def torch_attention_of_any_length() -> ir.Model:
    b = ExportBuilder("time", WIDTH)
    return b.pooled(merged_heads_attention(b, "x", b.size("x", 1)))


def torch_encoder() -> ir.Model:
    b = ExportBuilder(6, 4)
    x = b.linear("x", 4, WIDTH)
    x = b.norm(b.op("Add", x, merged_heads_attention(b, x, 6)))
    y = b.linear(b.op("Relu", b.linear(x, WIDTH, 16)), 16, WIDTH)
    return b.pooled(b.norm(b.op("Add", x, y)))


def split_into_heads(b: ExportBuilder, x: str, heads: int = HEADS) -> str:
    x = b.view(x, b.size(x, 0), b.size(x, 1), heads, SIZE)
    return b.transpose(x, 0, 2, 1, 3)


def bert() -> ir.Model:
    """Words and a mask of free length, positions cut from a table, classified by the first word."""
    b = ExportBuilder()
    b.inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "time"])
        for name in ("x", "mask")
    ]
    mask = b.op("Unsqueeze", b.op("Cast", "mask", to=TensorProto.FLOAT), b.constant([1, 2]))
    mask = b.op("Mul", b.op("Sub", b.constant(1, np.float32), mask), b.constant(-1e4, np.float32))
    end = b.op("Unsqueeze", b.size("x", 1), b.constant([0]))
    places = b.op("Slice", b.constant(np.arange(20)[None]), b.constant([0]), end, b.constant([1]))
    words = b.op("Gather", b.weight(30, WIDTH), "x")
    x = b.norm(b.op("Add", words, b.op("Gather", b.weight(20, WIDTH), places)))
    query, key, value = (split_into_heads(b, b.linear(x, WIDTH, WIDTH)) for _ in range(3))
    scores = b.op("MatMul", query, b.transpose(key, 0, 1, 3, 2))
    scores = b.op("Softmax", b.op("Add", b.op("Div", scores, b.positive(1)), mask), axis=-1)
    heads = b.transpose(b.op("MatMul", scores, value), 0, 2, 1, 3)
    heads = b.view(heads, b.size(heads, 0), b.size(heads, 1), WIDTH)
    x = b.norm(b.op("Add", x, b.linear(heads, WIDTH, WIDTH)))
    x = b.norm(b.op("Add", x, b.linear(b.op("Relu", b.linear(x, WIDTH, 16)), 16, WIDTH)))
    return b.build(b.dense(b.op("Gather", x, b.constant(0), axis=1), WIDTH, CLASSES))


def grouped_queries() -> ir.Model:
    """Two heads of keys and values, each expanded for two heads of queries; steps are free."""
    b = ExportBuilder("time", WIDTH)
    batch, steps = b.size("x", 0), b.size("x", 1)
    query = split_into_heads(b, b.linear("x", WIDTH, HEADS * SIZE))
    repeated = []
    for _ in range(2):
        part = split_into_heads(b, b.linear("x", WIDTH, 2 * SIZE), heads=2)
        part = b.op("Unsqueeze", part, b.constant([2]))
        part = b.op("Expand", part, b.shape(batch, 2, 2, steps, SIZE))
        repeated.append(b.view(part, batch, HEADS, steps, SIZE))
    key, value = repeated
    heads = b.softmax_product(query, b.transpose(key, 0, 1, 3, 2), value)
    heads = b.view(b.transpose(heads, 0, 2, 1, 3), batch, steps, HEADS * SIZE)
    return b.pooled(b.linear(heads, HEADS * SIZE, WIDTH))


def masked_by_ones() -> ir.Model:
    """As Keras: a mask for each head is all true, expanded, before it meets that of the words."""
    b = ExportBuilder(6, WIDTH)
    query, key, value = (split_into_heads(b, b.linear("x", WIDTH, WIDTH)) for _ in range(3))
    scores = b.op("MatMul", query, b.transpose(key, 0, 1, 3, 2))
    ones = b.op("Expand", b.constant(True, np.bool_), b.op("Shape", scores))
    words = b.op("Greater", b.op("ReduceMean", "x", axes=[2], keepdims=0), b.weight(1))
    mask = b.op("And", ones, b.op("Unsqueeze", words, b.constant([1, 2])))
    scores = b.op("Where", mask, scores, b.constant(-1e4, np.float32))
    heads = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
    return b.pooled(b.linear(b.view(b.transpose(heads, 0, 2, 1, 3), -1, 6, WIDTH), WIDTH, WIDTH))


def vision_transformer() -> ir.Model:
    """Patches by a convolution, a class token expanded to the batch, one projection for three."""
    b = ExportBuilder(3, 8, 8)
    batch = b.size("x", 0)
    x = b.op("Conv", "x", b.weight(WIDTH, 3, 4, 4), b.weight(WIDTH), strides=[4, 4])
    x = b.transpose(b.view(x, batch, WIDTH, -1), 0, 2, 1)
    token = b.op("Expand", b.weight(1, 1, WIDTH), b.shape(batch, 1, WIDTH))
    x = b.op("Add", b.op("Concat", token, x, axis=1), b.weight(1, 5, WIDTH))
    joined = b.view(b.linear(b.norm(x), WIDTH, 3 * WIDTH), batch, 5, 3, HEADS, SIZE)
    joined = b.transpose(joined, 2, 0, 3, 1, 4)
    query, key, value = (b.op("Gather", joined, b.constant(i), axis=0) for i in range(3))
    heads = b.softmax_product(query, b.transpose(key, 0, 1, 3, 2), value)
    heads = b.view(b.transpose(heads, 0, 2, 1, 3), batch, 5, WIDTH)
    x = b.op("Add", x, b.linear(heads, WIDTH, WIDTH))
    return b.build(b.dense(b.op("Gather", b.norm(x), b.constant(0), axis=1), WIDTH, CLASSES))


def shifted_windows() -> ir.Model:
    """Swin: rolled by two, cut in windows of 4 x 4 that are merged with the batch, rolled back."""
    b = ExportBuilder(8, 8, WIDTH)
    axis = b.constant([1])
    tops = b.op("Slice", "x", b.constant([2]), b.constant([2**62]), axis)
    x = b.op("Concat", tops, b.op("Slice", "x", b.constant([0]), b.constant([2]), axis), axis=1)
    x = b.view(x, b.size(x, 0), 2, 4, 2, 4, WIDTH)
    x = b.view(b.transpose(x, 0, 1, 3, 2, 4, 5), -1, 16, WIDTH)
    joined = b.view(b.linear(x, WIDTH, 3 * WIDTH), -1, 16, 3, HEADS, SIZE)
    parts = b.ops("Split", b.transpose(joined, 2, 0, 3, 1, 4), outputs=3, axis=0)
    query, key, value = (b.op("Squeeze", part, b.constant([0])) for part in parts)
    scores = b.op("MatMul", query, b.transpose(key, 0, 1, 3, 2))
    scores = b.op("Softmax", b.op("Add", scores, b.weight(1, HEADS, 16, 16)), axis=-1)
    heads = b.view(b.transpose(b.op("MatMul", scores, value), 0, 2, 1, 3), -1, 16, WIDTH)
    x = b.view(b.linear(heads, WIDTH, WIDTH), -1, 2, 2, 4, 4, WIDTH)
    x = b.view(b.transpose(x, 0, 1, 3, 2, 4, 5), -1, 8, 8, WIDTH)
    bottoms = b.op("Slice", x, b.constant([6]), b.constant([8]), axis)
    x = b.op("Concat", bottoms, b.op("Slice", x, b.constant([0]), b.constant([6]), axis), axis=1)
    x = b.op("ReduceMean", b.op("Add", x, "x"), axes=[1, 2], keepdims=0)
    return b.build(b.dense(x, WIDTH, CLASSES))


def unfolded_patches() -> ir.Model:
    """MobileViT: pixels of 2 x 2 patches are taken apart, and each kind is a sample of its own."""
    b = ExportBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, WIDTH)
    rows = b.times(b.times(b.size(x, 0), WIDTH), 4)
    y = b.transpose(b.view(x, rows, 2, 4, 2), 0, 2, 1, 3)
    y = b.transpose(b.view(y, b.size(x, 0), WIDTH, 16, 4), 0, 3, 2, 1)
    y = b.view(y, b.times(b.size(x, 0), 4), 16, WIDTH)
    y = b.linear(b.op("Relu", b.linear(y, WIDTH, 10)), 10, WIDTH)
    y = b.transpose(b.view(y, b.size(x, 0), 4, 16, WIDTH), 0, 3, 2, 1)
    y = b.transpose(b.view(y, rows, 4, 2, 2), 0, 2, 1, 3)
    y = b.view(y, b.size(x, 0), WIDTH, 8, 8)
    return b.classifier(b.conv_relu(b.op("Concat", x, y, axis=1), 2 * WIDTH, 8), 8)


def shuffled_with_sizes() -> ir.Model:
    """ShuffleNet v2: half of the channels pass, and half the channel count is computed."""
    b = ExportBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, WIDTH)
    half = b.op("Unsqueeze", b.op("Div", b.size(x, 1), b.constant(2)), b.constant([0]))
    axis = b.constant([1])
    left = b.op("Slice", x, b.constant([0]), half, axis)
    right = b.op("Slice", x, half, b.constant([2**62]), axis)
    right = b.conv_relu(b.conv(right, 6, 6, group=6), 6, 6, kernel=1)
    x = b.op("Concat", left, right, axis=1)
    y = b.view(x, b.size(x, 0), 2, b.op("Div", b.size(x, 1), b.constant(2)), 8, 8)
    y = b.view(b.transpose(y, 0, 2, 1, 3, 4), b.size(x, 0), b.size(x, 1), 8, 8)
    return b.classifier(b.conv_relu(y, WIDTH, 8), 8)


def recurrent(b: ExportBuilder, x: str, taken: int, hidden: int) -> str:
    """nn.LSTM in both directions, with states of zero made for the batch; steps come first."""
    state = b.op("ConstantOfShape", b.shape(2, b.size(x, 1), hidden))
    weights = b.weight(2, 4 * hidden, taken), b.weight(2, 4 * hidden, hidden)
    options = {"hidden_size": hidden, "direction": "bidirectional"}
    y = b.op("LSTM", x, *weights, b.weight(2, 8 * hidden), "", state, state, **options)
    return b.op("Reshape", b.transpose(y, 0, 2, 1, 3), b.constant([0, 0, -1]))


def stacked_recurrent() -> ir.Model:
    b = ExportBuilder(6, 4)
    x = recurrent(b, b.transpose("x", 1, 0, 2), 4, 8)
    x = b.transpose(recurrent(b, x, 16, 6), 1, 0, 2)
    return b.build(b.dense(b.op("Gather", x, b.constant(-1), axis=1), 12, CLASSES))


def text_reader() -> ir.Model:
    """CRNN: columns of a feature map are the steps of a recurrent layer; pooled where CTC goes."""
    b = ExportBuilder(1, 8, 16)
    x = b.op("MaxPool", b.conv_relu("x", 1, 6), kernel_shape=[2, 2], strides=[2, 2])
    x = b.view(b.transpose(x, 3, 0, 1, 2), b.size(x, 3), b.size(x, 0), 24)
    return b.pooled(b.transpose(recurrent(b, x, 24, 8), 1, 0, 2), 16)


def dense_over_time() -> ir.Model:
    """Keras' Dense on steps of free number: all laid under one another, and taken apart again."""
    b = ExportBuilder("time", 4)
    batch, steps = b.size("x", 0), b.size("x", 1)
    x = b.op("MatMul", b.view("x", -1, 4), b.weight(4, WIDTH))
    x = b.op("Relu", b.op("Add", b.view(x, batch, steps, WIDTH), b.weight(WIDTH)))
    x = b.op("Gemm", b.view(x, -1, WIDTH), b.weight(8, WIDTH), b.weight(8), transB=1)
    return b.pooled(b.view(b.op("Tanh", x), batch, steps, 8), 8)


def ghost_features() -> ir.Model:
    """Half of the channels are made from the other half by a cheap depthwise convolution."""
    b = ExportBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, WIDTH)
    cheap = b.conv_relu(x, WIDTH, 6, kernel=1)
    y = b.op("Concat", cheap, b.conv_relu(cheap, 6, 6, group=6), axis=1)
    return b.classifier(b.op("Add", x, y), WIDTH)


def detector() -> ir.Model:
    """YOLO: a split with uneven parts, pooled pyramids, an upsampled path, a head that is cut."""
    b = ExportBuilder(3, 8, 8)
    fine = b.conv_relu("x", 3, 8)
    x = b.op("MaxPool", b.conv_relu(fine, 8, 12), kernel_shape=[2, 2], strides=[2, 2])
    left, right = b.ops("Split", x, b.constant([8, 4]), outputs=2, axis=1)
    x = b.conv_relu(b.op("Concat", left, right, b.conv_relu(right, 4, 4), axis=1), 16, 10)
    pooled = b.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    x = b.conv_relu(b.op("Concat", x, pooled, axis=1), 20, 10, kernel=1)
    x = b.op("Resize", x, "", b.constant([1, 1, 2, 2], np.float32), mode="nearest")
    x = b.conv(b.op("Concat", x, fine, axis=1), 18, CLASSES, kernel=1)
    x = b.view(x, b.size(x, 0), CLASSES, -1)
    boxes = b.op("Slice", x, b.constant([0]), b.constant([2]), b.constant([1]))
    scores = b.op("Slice", x, b.constant([2]), b.constant([CLASSES]), b.constant([1]))
    x = b.op("Concat", b.op("Softplus", boxes), b.op("Sigmoid", scores), axis=1)
    return b.build(b.op("ReduceMean", x, axes=[2], keepdims=0))


def twins() -> ir.Model:
    """Siamese: two images through one tower, whose weights two nodes share each."""
    b = ExportBuilder(3, 8, 8)
    b.inputs.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 8, 8]))
    first, second = b.weight(8, 3, 3, 3), b.weight(10, 8, 3, 3)
    towers = []
    for image in ("x", "y"):
        z = b.op("Relu", b.op("Conv", image, first, strides=[2, 2]))
        towers.append(b.op("Flatten", b.op("GlobalAveragePool", b.op("Conv", z, second))))
    return b.build(b.dense(b.op("Abs", b.op("Sub", *towers)), 10, CLASSES))


def causal_convolutions() -> ir.Model:
    """TCN: dilated 1-D convolutions, padded in front, with residual additions."""
    b = ExportBuilder(4, 16)
    x = b.conv_relu("x", 4, WIDTH, rank=1)
    for dilation in (1, 2):
        y = b.op("Pad", x, b.constant([0, 0, 2 * dilation, 0, 0, 0]))
        y = b.op("Conv", y, b.weight(8, WIDTH, 3), b.weight(8), dilations=[dilation])
        x = b.op("Add", x, b.conv(b.op("Elu", y), 8, WIDTH, rank=1, kernel=1))
    x = b.op("Squeeze", b.op("GlobalAveragePool", x), b.constant([2]))
    return b.build(b.dense(x, WIDTH, CLASSES))


def mixer() -> ir.Model:
    """MLP-Mixer with a gate along the steps, as in gMLP."""
    b = ExportBuilder(6, 4)
    x = b.linear("x", 4, WIDTH)
    y = b.linear(b.op("Relu", b.linear(b.transpose(b.norm(x), 0, 2, 1), 6, 10)), 10, 6)
    x = b.op("Add", x, b.transpose(y, 0, 2, 1))
    left, right = b.ops("Split", b.linear(b.norm(x), WIDTH, 16), outputs=2, axis=-1)
    gate = b.transpose(b.linear(b.transpose(right, 0, 2, 1), 6, 6), 0, 2, 1)
    return b.pooled(b.op("Add", x, b.linear(b.op("Mul", left, gate), 8, WIDTH)))


def convnext() -> ir.Model:
    b = ExportBuilder(3, 8, 8)
    x = b.conv("x", 3, WIDTH)
    y = b.norm(b.transpose(b.conv(x, WIDTH, WIDTH, group=WIDTH), 0, 2, 3, 1))
    y = b.linear(b.op("Relu", b.linear(y, WIDTH, 16)), 16, WIDTH)
    y = b.transpose(b.op("Mul", y, b.weight(WIDTH)), 0, 3, 1, 2)
    return b.classifier(b.op("Add", x, y), WIDTH)


def group_normalised() -> ir.Model:
    """nn.GroupNorm before opset 21: a Reshape, an InstanceNormalization, and a Reshape back."""
    b = ExportBuilder(3, 8, 8)
    x = b.conv("x", 3, WIDTH)
    y = b.op("Reshape", x, b.constant([0, 4, -1]))
    y = b.op("InstanceNormalization", y, b.constant(np.ones(4), np.float32), b.weight(4))
    y = b.op("Reshape", y, b.op("Shape", x))
    y = b.op("Add", b.op("Mul", y, b.positive(WIDTH, 1, 1)), b.weight(WIDTH, 1, 1))
    return b.classifier(b.op("PRelu", b.conv(y, WIDTH, 8), b.positive(8, 1, 1)), 8)


def autoencoder() -> ir.Model:
    """Flattened to a code and back to a feature map; pooled in place of an image."""
    b = ExportBuilder(3, 8, 8)
    x = b.op("MaxPool", b.conv_relu("x", 3, 8), kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Relu", b.dense(b.view(x, b.size(x, 0), 8 * 16), 8 * 16, 10))
    x = b.op("Relu", b.dense(x, 10, 6 * 16))
    x = b.view(x, b.size(x, 0), 6, 4, 4)
    x = b.op("ConvTranspose", x, b.weight(6, CLASSES, 2, 2), strides=[2, 2])
    return b.build(b.op("Flatten", b.op("GlobalAveragePool", x)))


def conformer() -> ir.Model:
    """Attention, then a convolution module: a gated linear unit, depthwise, pointwise."""
    b = ExportBuilder(6, 4)
    x = b.linear("x", 4, WIDTH)
    x = b.op("Add", x, merged_heads_attention(b, x, 6))
    y = b.conv(b.transpose(b.norm(x), 0, 2, 1), WIDTH, 16, kernel=1, rank=1)
    left, right = b.ops("Split", y, outputs=2, axis=1)
    y = b.conv(b.op("Mul", left, b.op("Sigmoid", right)), 8, 8, group=8, rank=1)
    y = b.conv(b.op("Mul", y, b.op("Sigmoid", y)), 8, WIDTH, kernel=1, rank=1)
    return b.pooled(b.op("Add", x, b.transpose(y, 0, 2, 1)))


def position_convolution() -> ir.Model:
    """wav2vec: an even kernel, grouped, whose last step is cut off, added to what it reads."""
    b = ExportBuilder(4, 16)
    x = b.op("Relu", b.conv("x", 4, WIDTH, rank=1))
    y = b.op("Conv", x, b.weight(WIDTH, 3, 4), b.weight(WIDTH), group=4, pads=[2, 2])
    y = b.op("Slice", y, b.constant([0]), b.constant([-1]), b.constant([2]), b.constant([1]))
    x = b.transpose(b.op("Add", x, b.op("Relu", y)), 0, 2, 1)
    return b.pooled(b.linear(b.op("Relu", b.linear(x, WIDTH, 10)), 10, WIDTH))


ARCHITECTURES: dict[str, Callable[[], ir.Model]] = {
    make.__name__: make
    for make in (
        *(torch_attention, torch_attention_of_any_length, torch_encoder, bert, grouped_queries),
        *(masked_by_ones, vision_transformer, shifted_windows, unfolded_patches),
        *(shuffled_with_sizes, stacked_recurrent, text_reader, dense_over_time, ghost_features),
        *(detector, twins, causal_convolutions, mixer, convnext, group_normalised, autoencoder),
        *(conformer, position_convolution),
    )
}
