"""Small ONNX graphs of attention and recurrent layers, in the forms that exporters write.

All take (batch, 6 steps, 8 features), unless their words say otherwise, and have 5 outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper

from support.graphs import CLASSES, GraphBuilder

STEPS, FEATURES, HEADS, SIZE = 6, 8, 4, 3
"""Heads times their size need not be the number of features."""


def start() -> GraphBuilder:
    return GraphBuilder(STEPS, FEATURES)


def linear(b: GraphBuilder, x: str, taken: int, made: int) -> str:
    return b.op("Add", b.op("MatMul", x, b.weight(taken, made)), b.weight(made))


def pooled(b: GraphBuilder, x: str, features: int = FEATURES) -> ir.Model:
    return b.build(b.dense(b.op("ReduceMean", x, axes=[1], keepdims=0), features, CLASSES))


def attend(b: GraphBuilder, query: str, key: str, value: str, mask: str = "") -> str:
    """From (batch, heads, steps, size) each; the key is (batch, heads, size, steps)."""
    scores = b.op("Mul", b.op("MatMul", query, key), b.constant(SIZE**-0.5, np.float32))
    if mask:
        scores = b.op("Add", scores, mask)
    return b.op("MatMul", b.op("Softmax", scores, axis=-1), value)


def merged(b: GraphBuilder, x: str) -> str:
    """Back to (batch, steps, heads * size)."""
    x = b.op("Transpose", x, perm=[0, 2, 1, 3])
    return b.op("Reshape", x, b.constant([0, 0, HEADS * SIZE]))


def split_heads(b: GraphBuilder, x: str, perm: list[int]) -> str:
    return b.op("Transpose", b.op("Reshape", x, b.constant([0, 0, HEADS, SIZE])), perm=perm)


def attention(b: GraphBuilder, x: str, mask: str = "") -> str:
    """Three projections, as in BERT."""
    query, key, value = (linear(b, x, FEATURES, HEADS * SIZE) for _ in range(3))
    heads = attend(
        b,
        split_heads(b, query, [0, 2, 1, 3]),
        split_heads(b, key, [0, 2, 3, 1]),
        split_heads(b, value, [0, 2, 1, 3]),
        mask,
    )
    return linear(b, merged(b, heads), HEADS * SIZE, FEATURES)


def layer_norm(b: GraphBuilder, x: str) -> str:
    return b.op("LayerNormalization", x, b.positive(FEATURES), b.weight(FEATURES), axis=-1)


def written_out_layer_norm(b: GraphBuilder, x: str) -> str:
    """As exports before operator set 17 have it."""
    centred = b.op("Sub", x, b.op("ReduceMean", x, axes=[-1]))
    squares = b.op("Pow", centred, b.constant(2, np.float32))
    variance = b.op("ReduceMean", squares, axes=[-1])
    deviation = b.op("Sqrt", b.op("Add", variance, b.constant(1e-5, np.float32)))
    x = b.op("Mul", b.op("Div", centred, deviation), b.positive(FEATURES))
    return b.op("Add", x, b.weight(FEATURES))


def gelu(b: GraphBuilder, x: str) -> str:
    """As exports before operator set 20 have it."""
    y = b.op("Erf", b.op("Div", x, b.constant(2**0.5, np.float32)))
    y = b.op("Mul", x, b.op("Add", y, b.constant(1, np.float32)))
    return b.op("Mul", y, b.constant(0.5, np.float32))


def self_attention() -> ir.Model:
    b = start()
    return pooled(b, attention(b, "x"))


def transformer() -> ir.Model:
    """Two blocks with residual additions, normalisations and feed-forward layers of width 10."""
    b = start()
    x = "x"
    for norm in (layer_norm, written_out_layer_norm):
        x = norm(b, b.op("Add", x, attention(b, x)))
        y = linear(b, gelu(b, linear(b, x, FEATURES, 10)), 10, FEATURES)
        x = norm(b, b.op("Add", x, y))
    return pooled(b, x)


def pre_norm_transformer() -> ir.Model:
    """The features between blocks are only ever read through a normalisation, so they stay."""
    b = start()
    x = linear(b, "x", FEATURES, FEATURES)
    x = b.op("Add", x, attention(b, layer_norm(b, x)))
    return pooled(b, layer_norm(b, x))


def masked_attention() -> ir.Model:
    """Scores with a bias for each head and a mask for all."""
    b = start()
    bias = b.op("Add", b.weight(1, HEADS, STEPS, STEPS), b.weight(1, 1, 1, STEPS))
    return pooled(b, attention(b, "x", bias))


def head_bias() -> ir.Model:
    b = start()
    return pooled(b, attention(b, "x", b.weight(HEADS, STEPS, STEPS)))


def fused_and_split() -> ir.Model:
    """One projection for queries, keys and values, cut in three."""
    b = start()
    joined = linear(b, "x", FEATURES, 3 * HEADS * SIZE)
    query, key, value = b.ops("Split", joined, outputs=3, axis=-1)
    heads = attend(
        b,
        split_heads(b, query, [0, 2, 1, 3]),
        split_heads(b, key, [0, 2, 3, 1]),
        split_heads(b, value, [0, 2, 1, 3]),
    )
    return pooled(b, linear(b, merged(b, heads), HEADS * SIZE, FEATURES))


def fused_and_gathered() -> ir.Model:
    """One projection, reshaped to five axes, as in vision transformers of PyTorch."""
    b = start()
    x = linear(b, "x", FEATURES, 3 * HEADS * SIZE)
    x = b.op("Reshape", x, b.constant([-1, STEPS, 3, HEADS, SIZE]))
    x = b.op("Transpose", x, perm=[2, 0, 3, 1, 4])
    query, key, value = (b.op("Gather", x, b.constant(part), axis=0) for part in range(3))
    key = b.op("Transpose", key, perm=[0, 1, 3, 2])
    heads = attend(b, query, key, value)
    return pooled(b, linear(b, merged(b, heads), HEADS * SIZE, FEATURES))


def fused_and_sliced() -> ir.Model:
    """One projection, cut by slices."""
    b = start()
    joined = linear(b, "x", FEATURES, 3 * HEADS * SIZE)
    parts = []
    for start_, end in ((0, 12), (12, 24), (-12, 2**63 - 1)):
        bounds = [b.constant([start_]), b.constant([end]), b.constant([2])]
        parts.append(b.op("Slice", joined, *bounds))
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    split = [split_heads(b, part, order) for part, order in zip(parts, orders, strict=True)]
    return pooled(b, linear(b, merged(b, attend(b, *split)), HEADS * SIZE, FEATURES))


def einsum_attention() -> ir.Model:
    """As Keras' MultiHeadAttention writes it: every product an Einsum over heads and features."""
    b = start()
    query, key, value = (
        b.op(
            "Add",
            b.op("Einsum", "x", b.weight(FEATURES, HEADS, SIZE), equation="abc,cde->abde"),
            b.weight(HEADS, SIZE),
        )
        for _ in range(3)
    )
    scores = b.op("Einsum", key, query, equation="aecd,abcd->acbe")
    scores = b.op("Softmax", scores, axis=-1)
    heads = b.op("Einsum", scores, value, equation="acbe,aecd->abcd")
    x = b.op("Einsum", heads, b.weight(HEADS, SIZE, FEATURES), equation="abcd,cde->abe")
    return pooled(b, b.op("Add", x, b.weight(FEATURES)))


def shared_keys() -> ir.Model:
    """Multi-query attention: all heads read one set of keys and values."""
    b = start()
    query = split_heads(b, linear(b, "x", FEATURES, HEADS * SIZE), [0, 2, 1, 3])
    axis = b.constant([1])
    key, value = (b.op("Unsqueeze", linear(b, "x", FEATURES, SIZE), axis) for _ in range(2))
    heads = attend(b, query, b.op("Transpose", key, perm=[0, 1, 3, 2]), value)
    return pooled(b, linear(b, merged(b, heads), HEADS * SIZE, FEATURES))


def single_head() -> ir.Model:
    """Each feature of queries goes with that of keys; values are as free as a dense layer."""
    b = start()
    query, key, value = (linear(b, "x", FEATURES, 6) for _ in range(3))
    scores = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 2, 1]))
    x = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
    return pooled(b, linear(b, x, 6, FEATURES))


def embedded() -> ir.Model:
    """A table of 10 words, read by an input of 6 word numbers, before a convolution."""
    b = GraphBuilder(STEPS)
    b.inputs[0] = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", STEPS])
    x = b.op("Gather", b.weight(10, FEATURES), "x")
    x = b.conv_relu(b.op("Transpose", x, perm=[0, 2, 1]), FEATURES, 10, rank=1)
    return b.build(b.dense(b.op("ReduceMean", x, axes=[2], keepdims=0), 10, CLASSES))


def recurrent(
    b: GraphBuilder,
    x: str,
    operator: str,
    taken: int,
    hidden: int,
    *,
    both: bool = False,
    peepholes: bool = False,
) -> str:
    """From and to (steps, batch, features)."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    ways = 2 if both else 1
    weights = [
        b.weight(ways, gates * hidden, taken),
        b.weight(ways, gates * hidden, hidden),
        b.weight(ways, 2 * gates * hidden),
    ]
    more = ["", "", "", b.weight(ways, 3 * hidden)] if peepholes else []
    direction = "bidirectional" if both else "forward"
    options: dict[str, object] = {"hidden_size": hidden, "direction": direction}
    if operator == "GRU":
        options["linear_before_reset"] = 1
    y = b.op(operator, x, *weights, *more, **options)
    y = b.op("Transpose", y, perm=[0, 2, 1, 3])
    return b.op("Reshape", y, b.constant([0, 0, ways * hidden]))


def recurrent_stack() -> ir.Model:
    """Each kind of layer once, one of them in both directions."""
    b = start()
    x = b.op("Transpose", "x", perm=[1, 0, 2])
    x = recurrent(b, x, "LSTM", FEATURES, 8, peepholes=True)
    x = recurrent(b, x, "GRU", 8, 6, both=True)
    x = recurrent(b, x, "RNN", 12, 10)
    return pooled(b, b.op("Transpose", x, perm=[1, 0, 2]), 10)


def last_state() -> ir.Model:
    """The classifier reads the state after the last step, and there is an initial one."""
    b = start()
    x = b.op("Transpose", "x", perm=[1, 0, 2])
    state = b.constant(np.zeros((1, 3, 8)), np.float32)
    weights = [b.weight(1, 32, FEATURES), b.weight(1, 32, 8), b.weight(1, 64)]
    outputs = b.ops("LSTM", x, *weights, "", state, state, outputs=3, hidden_size=8)
    return b.build(b.dense(b.op("Squeeze", outputs[1], b.constant([0])), 8, CLASSES))


SEQUENCE_GRAPHS: dict[str, Callable[[], ir.Model]] = {
    make.__name__: make
    for make in (
        *(self_attention, transformer, pre_norm_transformer, masked_attention, head_bias),
        *(fused_and_split, fused_and_gathered, fused_and_sliced, einsum_attention, shared_keys),
        *(single_head, embedded, recurrent_stack, last_state),
    )
}
