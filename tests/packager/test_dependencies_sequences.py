"""Attention heads, feed-forward widths and hidden units are pruned exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.graphs import GraphBuilder
from support.pruning import assert_prunes_exactly, channels
from support.sequence_graphs import SEQUENCE_GRAPHS, attention, gelu, linear, pooled, recurrent
from trimtab.graph.dependencies import analyse
from trimtab.graph.equations import Letters, parse_equation


@pytest.mark.parametrize("name", SEQUENCE_GRAPHS)
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_pruned_equals_masked(name: str, share: float) -> None:
    assert_prunes_exactly(SEQUENCE_GRAPHS[name](), share=share)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("self_attention", [4, 8]),
        ("transformer", [4, 10, 4, 10]),
        ("pre_norm_transformer", [4]),
        ("masked_attention", [8]),
        ("head_bias", [4, 8]),
        ("fused_and_split", [4, 8]),
        ("fused_and_gathered", [4, 8]),
        ("fused_and_sliced", [4, 8]),
        ("einsum_attention", [4, 8]),
        ("shared_keys", [4, 8]),
        ("single_head", [6, 6, 8]),
        ("embedded", [8, 10]),
        ("recurrent_stack", [8, 6, 10]),
        ("last_state", [8]),
    ],
)
def test_finds_every_group(name: str, classes: list[int]) -> None:
    found = analyse(SEQUENCE_GRAPHS[name]())
    assert [len(group.classes) for group in found.groups] == classes
    assert found.opaque_operators == ()


@pytest.mark.parametrize("name", ["self_attention", "einsum_attention"])
def test_a_head_is_as_wide_as_its_features(name: str) -> None:
    assert analyse(SEQUENCE_GRAPHS[name]()).groups[0].width == 3


def test_counts_hidden_units_once() -> None:
    assert channels(SEQUENCE_GRAPHS["recurrent_stack"]()) == [8, 6, 10]


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("ab, bc -> ac", Letters("ab", "bc", "ac")),
        ("a,a->", Letters("a", "a", "")),
        ("ab,bc", None),
        ("ab->ba", None),
        ("aa,ab->b", None),
        ("...a,ab->...b", None),
        ("a,b,c->abc", None),
    ],
)
def test_reads_equations(equation: str, expected: Letters | None) -> None:
    assert parse_equation(equation) == expected


def attention_block(b: GraphBuilder, x: str) -> str:
    return b.op("Add", x, attention(b, x))


def feed_forward_block(b: GraphBuilder, x: str) -> str:
    return b.op("Add", x, linear(b, gelu(b, linear(b, x, 8, 10)), 10, 8))


def norm_block(b: GraphBuilder, x: str) -> str:
    return b.op("LayerNormalization", x, b.positive(8), b.weight(8))


def recurrent_block(b: GraphBuilder, x: str) -> str:
    y = recurrent(b, b.op("Transpose", x, perm=[1, 0, 2]), "GRU", 8, 4, both=True)
    return b.op("Transpose", y, perm=[1, 0, 2])


def convolution_block(b: GraphBuilder, x: str) -> str:
    y = b.conv_relu(b.op("Transpose", x, perm=[0, 2, 1]), 8, 8, rank=1)
    return b.op("Transpose", y, perm=[0, 2, 1])


def rotated_block(b: GraphBuilder, x: str) -> str:
    """The halves of the features swapped, as rotary position encodings do."""
    axis = b.constant([2])
    left = b.op("Slice", x, b.constant([0]), b.constant([4]), axis)
    right = b.op("Slice", x, b.constant([4]), b.constant([2**31]), axis)
    turned = b.op("Concat", b.op("Neg", right), left, axis=2)
    return b.op("Add", b.op("Mul", x, b.weight(6, 8)), turned)


def shuffled_block(b: GraphBuilder, x: str) -> str:
    return b.op("Gather", x, b.constant([1, 0, -1, 6, 2, 4, 5, 3]), axis=2)


def gated_block(b: GraphBuilder, x: str) -> str:
    gate = b.op("Softmax", linear(b, x, 8, 8), axis=-1)
    return b.op("Where", b.op("Greater", x, b.constant(0, np.float32)), gate, x)


BLOCKS = [
    *(attention_block, feed_forward_block, norm_block, recurrent_block, convolution_block),
    *(rotated_block, shuffled_block, gated_block),
]


@given(blocks=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_any_composition_prunes_exactly(blocks: list, seed: int) -> None:
    b = GraphBuilder(6, 8, seed=seed)
    x = linear(b, "x", 8, 8)
    for block in blocks:
        x = block(b, x)
    assert_prunes_exactly(pooled(b, x), seed)


def transposed(groups: int, taken: int, made: int) -> ir.Model:
    b = GraphBuilder(3, 6, 6)
    x = b.conv_relu("x", 3, taken)
    weight = b.weight(taken, made // groups, 2, 2)
    x = b.op("ConvTranspose", x, weight, b.weight(made), strides=[2, 2], group=groups)
    return b.classifier(b.conv_relu(x, made, 8), 8)


@pytest.mark.parametrize(
    ("groups", "taken", "made", "sizes"),
    [(1, 8, 6, [8, 6, 8]), (2, 8, 6, [8, 3, 8]), (8, 8, 8, [8, 8]), (8, 8, 16, [8, 8])],
)
def test_transposed_convolutions(groups: int, taken: int, made: int, sizes: list[int]) -> None:
    model = transposed(groups, taken, made)
    assert channels(model) == sizes
    assert_prunes_exactly(model)
