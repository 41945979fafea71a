"""Cleaning: outputs stay, a fixed point is reached, and what should go is gone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.graphs import GRAPHS, GraphBuilder
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph


def scaled_shared_weight() -> ir.Model:
    """Two layers on one kernel, of which one is scaled."""
    b = GraphBuilder(3, 8, 8)
    kernel = b.weight(6, 3, 3, 3)
    left = b.op("Mul", b.op("Conv", "x", kernel), b.positive(6, 1, 1))
    return b.classifier(b.op("Concat", left, b.op("Conv", "x", kernel), axis=1), 12)


def shared_bias_shifted() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    bias = b.weight(6)
    left = b.op("Conv", "x", b.weight(6, 3, 3, 3), bias)
    right = b.op("Conv", "x", b.weight(6, 3, 3, 3), bias)
    return b.classifier(b.op("Concat", b.op("Add", left, b.weight(1, 6, 1, 1)), right, axis=1), 12)


def transpose_chain() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    x = b.conv("x", 3, 6)
    for perm in ([0, 2, 3, 1], [0, 2, 1, 3], [0, 2, 1, 3], [0, 3, 1, 2]):
        x = b.op("Transpose", x, perm=perm)
    return b.classifier(b.op("Relu", x), 6)


def scaling_along_the_width() -> ir.Model:
    """Eight channels on a map of width eight: the constant fits both, and means the width."""
    b = GraphBuilder(3, 8, 8)
    return b.classifier(b.op("Mul", b.conv("x", 3, 8), b.positive(8)), 8)


def computed_bias() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    bias = b.op("ReduceMean", "x", axes=[0, 1, 2], keepdims=0)
    x = b.op("Conv", "x", b.weight(8, 3, 3, 3), bias)
    return b.classifier(b.op("Mul", x, b.positive(8, 1, 1)), 8)


def computed_weight() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    kernel = b.op("ReduceMean", "x", axes=[0], keepdims=1)
    x = b.op("Conv", "x", b.op("Reshape", kernel, b.constant([1, 3, 8, 8])), pads=[4, 4, 4, 4])
    return b.classifier(b.op("Mul", x, b.positive(1, 1, 1)), 1)


def used_in_between() -> ir.Model:
    """The convolution's own output is needed beside the scaled one."""
    b = GraphBuilder(3, 8, 8)
    x = b.conv("x", 3, 6)
    return b.classifier(b.op("Add", b.op("Mul", x, b.positive(6, 1, 1)), b.op("Relu", x)), 6)


def constant_subgraph() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    scale = b.op("Sqrt", b.op("Add", b.positive(6, 1, 1), b.constant(1, np.float32)))
    return b.classifier(b.op("Div", b.conv("x", 3, 6), scale), 6)


def scalar_bias() -> ir.Model:
    b = GraphBuilder(4)
    x = b.op("Add", b.op("MatMul", "x", b.weight(4, 1)), b.constant(0.5, np.float32))
    return b.build(b.dense(x, 1, 5))


def unequal_unsqueezes() -> ir.Model:
    """Both sides have a new axis 1, and they are not the same axis."""
    b = GraphBuilder(3, 8)
    left = b.op("Unsqueeze", "x", b.constant([1]))
    right = b.op("Unsqueeze", b.op("Unsqueeze", "x", b.constant([1])), b.constant([1]))
    x = b.op("ReduceMean", b.op("Add", left, right), axes=[1, 2, 3], keepdims=0)
    return b.build(b.dense(x, 8, 5))


def dead_branch() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    b.conv_relu("x", 3, 6)
    return b.classifier(b.op("Identity", b.op("Dropout", b.conv("x", 3, 6))), 6)


def info(name: str, *shape: object) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def branch(value: str, factor: str, *, output: str, name: str) -> onnx.GraphProto:
    """A branch that reads a value and a weight of the graph around it, and has a weight itself."""
    own = numpy_helper.from_array(np.float32([0.5]), f"own_{name}")
    nodes = [
        helper.make_node("Constant", [], ["two"], value_floats=[2.0]),
        helper.make_node("Mul", [value, factor], ["inner"]),
        helper.make_node("Mul", ["inner", f"own_{name}"], ["Relu_3"]),
        helper.make_node("Add", ["Relu_3", "two"], [output]),
    ]
    return helper.make_graph(nodes, name, [], [info(output, None, None, None, None)], [own])


def branching(condition: str, b: GraphBuilder, x: str) -> str:
    factor = b.positive(6, 1, 1)
    return b.op(
        "If",
        condition,
        then_branch=branch(x, factor, output="taken", name="then"),
        else_branch=branch(b.op("Neg", x), factor, output="not_taken", name="else"),
    )


def known_branch() -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    x = b.conv("x", 3, 6)
    x = branching(b.constant(True, np.bool_), b, x)
    return b.classifier(b.op("Relu", branching(b.constant([False], np.bool_), b, x)), 6)


def unknown_branch() -> ir.Model:
    """The condition depends on the data: the scaling inside uses the convolution's output."""
    b = GraphBuilder(3, 8, 8)
    x = b.conv("x", 3, 6)
    mean = b.op("ReduceMean", x, keepdims=0)
    x = branching(b.op("Greater", mean, b.constant(0, np.float32)), b, x)
    return b.classifier(b.op("Relu", b.op("Mul", x, b.positive(6, 1, 1))), 6)


def looping(rounds: str, b: GraphBuilder, state: str, step: str) -> list[str]:
    """Adds `step` each round, and gives out every sum and the number of the round."""
    nodes = [
        helper.make_node("Identity", ["going"], ["still"]),
        helper.make_node("Add", ["before", step], ["after"]),
        helper.make_node("Cast", ["round"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["after", "number"], ["row"]),
    ]
    inputs = [
        helper.make_tensor_value_info("round", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        info("before", None, None),
    ]
    outputs = [helper.make_tensor_value_info("still", TensorProto.BOOL, [])]
    outputs += [info("after", None, None), info("row", None, None)]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    going = b.constant(True, np.bool_)
    return b.ops("Loop", rounds, going, state, outputs=2, body=body)


def short_loop() -> ir.Model:
    b = GraphBuilder(4)
    state, rows = looping(b.constant(5), b, "x", b.op("Relu", "x"))
    x = b.op("Add", state, b.op("ReduceSum", rows, b.constant([0]), keepdims=0))
    return b.build(b.dense(x, 4, 5))


def long_loop() -> ir.Model:
    b = GraphBuilder(4)
    state, _ = looping(b.constant(100), b, "x", b.weight(4))
    return b.build(b.dense(state, 4, 5))


def counting_loop(*, limit: bool) -> ir.Model:
    """As TensorFlow writes it: a state counts, and the condition compares it."""
    b = GraphBuilder(4)
    one, bound = b.constant(1, np.int32), b.constant(3, np.int32)
    if not limit:
        bound = b.op(
            "Cast", b.op("ReduceSum", b.op("Shape", "x"), keepdims=0), to=TensorProto.INT32
        )
    nodes = [
        helper.make_node("Add", ["count", one], ["counted"]),
        helper.make_node("Less", ["counted", bound], ["still"]),
        helper.make_node("Add", ["before", "before"], ["after"]),
    ]
    kinds = {"round": TensorProto.INT64, "going": TensorProto.BOOL, "count": TensorProto.INT32}
    scalars = [helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items()]
    outputs = [
        helper.make_tensor_value_info("still", TensorProto.BOOL, []),
        helper.make_tensor_value_info("counted", TensorProto.INT32, []),
        info("after", None, None),
    ]
    body = helper.make_graph(nodes, "body", [*scalars, info("before", None, None)], outputs)
    start = b.constant(True, np.bool_), b.constant(0, np.int32), "x"
    _, state = b.ops("Loop", "", *start, outputs=2, body=body)
    return b.build(b.dense(state, 4, 5))


def counting_to_a_constant() -> ir.Model:
    return counting_loop(limit=True)


def counting_to_the_batch() -> ir.Model:
    return counting_loop(limit=False)


def reversed_twice() -> ir.Model:
    b = GraphBuilder(6, 4)

    def turned(x: str) -> str:
        bounds = [b.constant([item]) for item in (-1, -(2**63) + 1, 1, -1)]
        return b.op("Slice", x, *bounds)

    x = b.op("ReduceMean", b.op("Tanh", turned(turned("x"))), axes=[1], keepdims=0)
    return b.build(b.dense(x, 4, 5))


OWN = {
    make.__name__: make
    for make in (
        *(scaled_shared_weight, shared_bias_shifted, transpose_chain, scaling_along_the_width),
        *(computed_bias, computed_weight, used_in_between, constant_subgraph, scalar_bias),
        *(unequal_unsqueezes, dead_branch, known_branch, unknown_branch, short_loop, long_loop),
        *(reversed_twice, counting_to_a_constant, counting_to_the_batch),
    )
}
every_graph = pytest.mark.parametrize("make", [*GRAPHS.values(), *OWN.values()])


def samples(model: ir.Model, count: int = 4) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    shapes = [[d for d in value.shape if isinstance(d, int)] for value in model.graph.inputs]
    return [generator.normal(size=(count, *shape)).astype(np.float32) for shape in shapes]


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@every_graph
def test_outputs_stay_and_the_original_is_left_alone(make):
    model = make()
    before, data = serialized(model), samples(model)
    cleaned = clean(model)
    assert serialized(model) == before
    for actual, expected in zip(run_graph(cleaned, data), run_graph(model, data), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@every_graph
def test_a_second_cleaning_changes_nothing(make):
    cleaned = clean(make())
    assert serialized(clean(cleaned)) == serialized(cleaned)


@every_graph
def test_inputs_and_outputs_keep_their_names(make):
    model = make()
    cleaned = clean(model)
    for side in ("inputs", "outputs"):
        names = [[value.name for value in getattr(m.graph, side)] for m in (cleaned, model)]
        assert names[0] == names[1]


def test_names_are_unique_and_those_of_layers():
    cleaned = clean(GRAPHS["plain"]())
    assert [node.name for node in cleaned.graph][:2] == ["Conv_0", "Relu_1"]
    assert {"Conv_0.weight", "Conv_0.bias"} <= set(cleaned.graph.initializers)
    values = [*cleaned.graph.initializers, *(v.name for n in cleaned.graph for v in n.outputs)]
    assert len(values) == len(set(values))


def test_names_of_other_frameworks_become_those_of_layers():
    b = GraphBuilder(3, 8, 8)
    b.initializers.append(
        numpy_helper.from_array(b.rng.normal(size=(8, 3, 1, 1)).astype(np.float32), "l.0.weight")
    )
    x = b.op("Relu", b.op("Conv", "x", "l.0.weight"))
    x = b.op("Relu", b.conv(x, 8, 8))
    names = ["/l/l.0/Conv", "/l/l.1/Relu", "seq/conv_1/convolution__5", "seq/conv_1/Relu"]
    for node, name in zip(b.nodes, names, strict=True):
        node.name = name
    cleaned = clean(b.classifier(x, 8))
    assert [node.name for node in cleaned.graph][:4] == [
        "l.0", "l/l.1", "seq/conv_1", "seq/conv_1/Relu",
    ]  # fmt: skip
    assert {"l.0.weight", "seq/conv_1.weight", "seq/conv_1.bias"} <= set(cleaned.graph.initializers)


@pytest.mark.parametrize(
    ("make", "gone"),
    [
        (GRAPHS["plain"], {"BatchNormalization", "Mul", "Add"}),
        (GRAPHS["time_series_wrapped"], {"Unsqueeze", "Mul", "Add"}),
        (scaled_shared_weight, {"Mul"}),
        (shared_bias_shifted, {"Add"}),
        (transpose_chain, {"Transpose"}),
        (constant_subgraph, {"Sqrt", "Add", "Div"}),
        (dead_branch, {"Relu", "Dropout", "Identity"}),
        (known_branch, {"If"}),
        (short_loop, {"Loop"}),
        (counting_to_a_constant, {"Loop", "Less"}),
        (reversed_twice, {"Slice"}),
        (GRAPHS["perceptron"], set()),
    ],
)
def test_what_should_go_is_gone(make, gone):
    assert not gone & set(operators(clean(make())))


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        *((scaling_along_the_width, "Mul"), (computed_bias, "Mul"), (used_in_between, "Mul")),
        *((unknown_branch, "If"), (long_loop, "Loop")),
        (counting_to_the_batch, "Loop"),
    ],
)
def test_what_may_not_be_folded_stays(make, kept):
    assert operators(clean(make()))[kept] == 1


def test_nothing_of_a_branch_that_is_not_taken_is_left():
    assert operators(clean(known_branch()))["Neg"] == 1


def passing_through(*names: str) -> ir.Model:
    """The input as an output, as it is or behind an Identity each."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in names]
    nodes.append(helper.make_node("Relu", ["x"], ["relu"]))
    nodes += [helper.make_node("Identity", ["relu"], [name]) for name in ("one", "other")]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])
        for name in (*names, "one", "other")
    ]
    graph = helper.make_graph(nodes, "g", [x], outputs)
    opset = helper.make_opsetid("", 17)
    return ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=8))


def test_outputs_that_are_the_same_value_stay_apart():
    model = passing_through("copy")
    data = samples(model)
    cleaned = clean(model)
    assert [value.name for value in cleaned.graph.outputs] == ["copy", "one", "other"]
    for actual, expected in zip(run_graph(cleaned, data), run_graph(model, data), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_constant_output_is_kept():
    b = GraphBuilder(3)
    model = b.build(b.dense("x", 3, 5))
    fixed = helper.make_node("Neg", ["two"], ["fixed"])
    proto = ir.to_proto(model)
    proto.graph.node.append(fixed)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([2, 3]), "two"))
    proto.graph.output.append(helper.make_tensor_value_info("fixed", TensorProto.FLOAT, [2]))
    cleaned = clean(ir.from_proto(proto))
    assert cleaned.graph.outputs[1].name == "fixed"
    np.testing.assert_array_equal(run_graph(cleaned, samples(model))[1], [[-2, -3]] * 4)


def test_weights_listed_as_inputs_are_no_inputs():
    proto = ir.to_proto(GRAPHS["plain"]())
    for tensor in proto.graph.initializer:
        proto.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    assert [value.name for value in clean(ir.from_proto(proto)).graph.inputs] == ["x"]
