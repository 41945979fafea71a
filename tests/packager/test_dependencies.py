"""A pruned graph computes what the original computes with the same channels set to zero."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.graphs import GRAPHS, GraphBuilder
from support.pruning import assert_prunes_exactly, channels
from trimtab.graph.dependencies import analyse, remove_channels


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_pruned_equals_masked(name: str, share: float) -> None:
    assert_prunes_exactly(GRAPHS[name](), share=share)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("plain", [8, 12]),
        ("residual", [8, 6, 12]),
        ("mobile", [6, 12]),
        ("dense_blocks", [6, 4, 4]),
        ("joined_in_space", [8, 8]),
        ("flattened", [8, 10]),
        ("flattened_first", [8]),
        ("grouped", [12, 18, 8]),
        ("shuffled", [12, 16, 16]),
        ("split_in_two", [6, 6, 6]),
        ("time_series", [8, 12]),
        ("time_series_wrapped", [8]),
        ("perceptron", [8, 12, 10]),
        ("squeeze_excitation", [12, 4]),
        ("spatial_attention", [12]),
        ("crossed_gate", [8]),
        ("bottleneck_of_one", [8]),
        ("encoder_decoder", [8, 12, 6, 8]),
        ("padded_channels", [8]),
        ("shared_weight", [6, 8]),
        ("unknown_operator", [8, 8, 8]),
    ],
)
def test_finds_every_group(name: str, sizes: list[int]) -> None:
    assert channels(GRAPHS[name]()) == sizes


def test_keeps_all_around_an_unknown_operator() -> None:
    model = GRAPHS["unknown_operator"]()
    dependencies = analyse(model)
    lrn = next(node for node in model.graph if node.op_type == "LRN")
    touched = {value.name for value in (*lrn.inputs, *lrn.outputs)}
    assert dependencies.opaque_operators == ("LRN",)
    assert not touched & {name for name, _ in dependencies.axes}


def test_keeps_what_an_inner_graph_reads() -> None:
    b = GraphBuilder(3, 8, 8)
    x = b.conv_relu("x", 3, 8)
    inner = [onnx.helper.make_node("Relu", [x], ["inner"])]
    info = onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(inner, "branch", [], [info])
    y = b.op("If", b.constant(True, np.bool_), then_branch=graph, else_branch=graph)
    model = b.classifier(b.conv_relu(b.op("Add", x, y), 8, 6), 6)
    assert channels(model) == [6]


def test_rewrites_constants_that_hold_lengths() -> None:
    model = GRAPHS["flattened"]()
    dependencies = analyse(model)
    conv = dependencies.groups[0]
    pruned = remove_channels(model, dependencies, conv.classes[:3])
    reshape = next(node for node in pruned.graph if node.op_type == "Reshape")
    assert reshape.inputs[1].const_value.numpy().tolist() == [-1, 5 * 16]


def test_leaves_the_original_alone() -> None:
    model = GRAPHS["mobile"]()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert_prunes_exactly(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_refuses_to_empty_a_group() -> None:
    model = GRAPHS["plain"]()
    dependencies = analyse(model)
    with pytest.raises(ValueError, match="would lose all 8 classes"):
        remove_channels(model, dependencies, dependencies.groups[0].classes)


def residual_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    return b.op("Add", x, b.conv(b.conv_relu(x, channels, 6), 6, channels)), channels


def depthwise_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    return b.op("HardSwish", b.conv(x, channels, channels, group=channels)), channels


def multiplier_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    y = b.conv(x, channels, 2 * channels, group=channels)
    return b.conv_relu(y, 2 * channels, 8, kernel=1), 8


def concat_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    joined = b.op("Concat", b.conv_relu(x, channels, 4), x, axis=1)
    return b.conv_relu(b.batch_norm(joined, channels + 4), channels + 4, 12, kernel=1), 12


def grouped_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    return b.conv_relu(x, channels, 8, group=2), 8


def gate_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    gate = b.conv(b.op("GlobalAveragePool", x), channels, channels, kernel=1)
    return b.op("Mul", b.op("Sigmoid", gate), x), channels


def split_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    sizes = b.constant([channels // 4, channels - channels // 4])
    left, right = b.ops("Split", x, sizes, outputs=2, axis=1)
    return b.op("Concat", right, b.op("Relu", left), axis=1), channels


def shuffle_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    y = b.op("Reshape", x, b.constant([0, 2, channels // 2, 6, 6]))
    y = b.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return b.op("Reshape", y, b.constant([-1, channels, 6, 6])), channels


def channels_last_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    y = b.op("Transpose", x, perm=[0, 2, 3, 1])
    y = b.op("MatMul", y, b.weight(channels, 10))
    return b.op("Transpose", b.op("Add", y, b.weight(10)), perm=[0, 3, 1, 2]), 10


def unknown_block(b: GraphBuilder, x: str, channels: int) -> tuple[str, int]:
    return b.op("LRN", x, size=3), channels


BLOCKS = [
    *(residual_block, depthwise_block, multiplier_block, concat_block, grouped_block, gate_block),
    *(split_block, shuffle_block, channels_last_block, unknown_block),
]


@given(
    blocks=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=6),
    flatten=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_any_composition_prunes_exactly(blocks: list, flatten: bool, seed: int) -> None:
    b = GraphBuilder(3, 6, 6, seed=seed)
    x, width = b.conv_relu("x", 3, 8), 8
    for block in blocks:
        x, width = block(b, x, width)
    if flatten:
        flat = b.op("Flatten", b.op("Transpose", x, perm=[0, 2, 3, 1]))
        model = b.build(b.dense(flat, 36 * width, 5))
    else:
        model = b.classifier(x, width)
    assert_prunes_exactly(model, seed)
