"""Counts against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.graphs import GraphBuilder
from trimtab.graph.clean import clean
from trimtab.graph.count import ModelCount, count_model
from trimtab.graph.macs import TAKEN_KEY


def count(b: GraphBuilder, output: str) -> ModelCount:
    model = b.build(output)
    model.graph.outputs[0].shape = None  # these graphs end before the classifier
    return count_model(clean(model))


def counted(b: GraphBuilder, output: str) -> list[tuple[str, int, int | None]]:
    return [(layer.operator, layer.parameters, layer.macs) for layer in count(b, output).layers]


def test_convolution_with_stride():
    b = GraphBuilder(3, 8, 8)
    x = b.conv("x", 3, 16, strides=[2, 2])  # 16 maps of 4 x 4, each element over 3 x 3 x 3
    assert counted(b, x) == [("Conv", 16 * 27 + 16, 16 * 16 * 27)]


def test_grouped_and_depthwise_convolutions():
    b = GraphBuilder(12, 8, 8)
    x = b.conv(b.conv("x", 12, 18, group=3), 18, 18, group=18)
    assert counted(b, x) == [
        ("Conv", 18 * 4 * 9 + 18, 18 * 64 * 4 * 9),
        ("Conv", 18 * 9 + 18, 18 * 64 * 9),
    ]


def test_one_dimensional_convolution():
    b = GraphBuilder(6, 20)
    assert counted(b, b.conv("x", 6, 8, kernel=5, rank=1)) == [("Conv", 248, 20 * 8 * 30)]


def test_products_with_either_operand_transposed():
    b = GraphBuilder(48)
    x = b.op("Gemm", "x", b.weight(12, 48), b.weight(12), transB=1)
    x = b.op("MatMul", x, b.weight(12, 5))
    assert counted(b, x) == [("Gemm", 12 * 48 + 12, 12 * 48), ("MatMul", 60, 60)]


def test_product_with_the_first_operand_transposed():
    b = GraphBuilder(7)
    weight = b.weight(7, 5)
    x = b.op("Transpose", "x", perm=[1, 0])
    assert counted(b, b.op("Gemm", x, weight, transA=1)) == [("Gemm", 35, 35)]


def test_product_at_every_time_step():
    b = GraphBuilder(6, 4)
    assert counted(b, b.op("MatMul", "x", b.weight(4, 8))) == [("MatMul", 32, 6 * 4 * 8)]


def test_transposed_convolution():
    b = GraphBuilder(12, 4, 4)
    x = b.op("ConvTranspose", "x", b.weight(12, 6, 2, 2), b.weight(6), strides=[2, 2])
    assert counted(b, x) == [("ConvTranspose", 12 * 6 * 4 + 6, 16 * 12 * 6 * 4)]


def test_quantized_weights_count_as_weights_and_scales_do_not():
    b = GraphBuilder(3, 8, 8)
    stored = b.constant(np.ones((4, 3, 3, 3)), np.int8)
    weight = b.op(
        "DequantizeLinear", stored, b.positive(4), b.constant(np.zeros(4), np.int8), axis=0
    )
    bias = b.op("DequantizeLinear", b.constant(np.ones(4), np.int32), b.positive(4), axis=0)
    found = count(b, b.op("Conv", "x", weight, bias))
    assert [(layer.parameters, layer.macs) for layer in found.layers] == [(112, 4 * 36 * 27)]
    assert (found.parameters, found.weight_bytes) == (112, 108 + 16)


def test_zeros_are_told_from_weights():
    b = GraphBuilder(4)
    weight = b.constant([[0, 1, 2], [0, 0, 3], [1, 1, 1], [0, 5, 0]], np.float32)
    assert count(b, b.op("MatMul", "x", weight)).nonzero_parameters == 7


def test_a_stored_code_is_zero_where_it_is_the_zero_point_of_its_block():
    b = GraphBuilder(5)
    stored = b.constant([[3, 3, 3, 1, 1], [0, 2, 3, 3, 3]], np.uint8)
    zero_points = b.constant([[3, 1, 1], [2, 3, 0]], np.uint8)
    weight = b.op(
        "DequantizeLinear", stored, b.positive(2, 3), zero_points, axis=1, block_size=2
    )  # zeros: 2 + 1 + 1 in the first row, 1 + 2 + 0 in the second
    found = count(b, b.op("Gemm", "x", weight, transB=1))
    assert (found.parameters, found.nonzero_parameters) == (10, 3)


def test_shared_weight_is_one_in_total():
    b = GraphBuilder(3, 8, 8)
    kernel = b.weight(3, 3, 3, 3)
    x = b.op("Conv", b.op("Conv", "x", kernel), kernel)
    found = count(b, x)
    assert found.parameters == 81
    assert [layer.parameters for layer in found.layers] == [81, 81]


def test_layer_of_unknown_size_is_named_and_not_counted_as_zero():
    b = GraphBuilder(3, 8, 8)
    x = b.op("Resize", "x", "", b.op("ReduceMean", "x", axes=[0, 1, 2], keepdims=0))
    found = count(b, b.conv(x, 3, 4))
    assert [layer.macs for layer in found.layers] == [None]
    assert found.uncounted == (found.layers[0].name,)


def test_recurrent_layer_multiplies_with_both_matrices_at_each_step():
    b = GraphBuilder(7, 4)
    steps_first = b.op("Transpose", "x", perm=[1, 0, 2])
    weights = b.weight(1, 3 * 5, 4), b.weight(1, 3 * 5, 5), b.weight(1, 2 * 3 * 5)
    x = b.op("GRU", steps_first, *weights, hidden_size=5)
    assert counted(b, x) == [("GRU", 15 * 4 + 15 * 5 + 30, 7 * (15 * 4 + 15 * 5))]


def choice(b: GraphBuilder, *widths: int) -> str:
    """An If of which each branch multiplies twice, through another number of features."""

    def branch(name: str, width: int) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 5])
        nodes = [
            helper.make_node("MatMul", ["x", b.weight(4, width)], [f"{name}_inner"]),
            helper.make_node("MatMul", [f"{name}_inner", b.weight(width, 5)], [name]),
        ]
        between = helper.make_tensor_value_info(f"{name}_inner", TensorProto.FLOAT, [None, width])
        return helper.make_graph(nodes, name, [], [output], value_info=[between])

    positive = b.op("Greater", b.op("ReduceMean", "x", keepdims=0), b.constant(0, np.float32))
    branches = [branch(name, width) for name, width in zip(("yes", "no"), widths, strict=True)]
    return b.op("If", positive, then_branch=branches[0], else_branch=branches[1])


def test_of_a_choice_the_branch_that_costs_more_counts():
    b = GraphBuilder(4)
    found = count(b, choice(b, 6, 3))
    assert [(layer.operator, layer.macs) for layer in found.layers] == [("If", 6 * (4 + 5))]
    assert found.parameters == (6 + 3) * (4 + 5) + 1


def test_of_a_measured_choice_the_average_counts():
    b = GraphBuilder(4)
    model = b.build(choice(b, 6, 3))
    node = next(node for node in model.graph if node.op_type == "If")
    node.metadata_props[TAKEN_KEY] = "0.25"
    assert count_model(model).macs == 34  # of 0.25 * 54 + 0.75 * 27


def test_heads_that_are_merged_with_the_batch_count_each():
    b = GraphBuilder(6, 8)
    heads = b.op("Reshape", b.op("Transpose", "x", perm=[1, 0, 2]), b.constant([6, -1, 4]))
    heads = b.op("Transpose", heads, perm=[1, 0, 2])
    x = b.op("MatMul", heads, b.op("Transpose", heads, perm=[0, 2, 1]))
    assert counted(b, x) == [("MatMul", 0, 2 * 6 * 6 * 4)]


def test_padding_along_time_leaves_the_batch_what_it_was():
    b = GraphBuilder(3, 8)
    padded = b.op("Pad", "x", b.constant([0, 0, 2, 0, 0, 2]))
    flat = b.op("Reshape", padded, b.constant([-1, 12]))  # 3 rows of each sample
    assert counted(b, b.op("MatMul", flat, b.weight(12, 5))) == [("MatMul", 60, 3 * 60)]


def test_a_free_length_counts_as_one_that_is_named():
    b = GraphBuilder("time", 4)
    found = count(b, b.op("MatMul", "x", b.weight(4, 8)))
    assert (found.macs, found.assumed, found.uncounted) == (128 * 4 * 8, {"time": 128}, ())


def test_steps_may_come_before_the_batch():
    b = GraphBuilder(6, 4)
    x = b.op("MatMul", b.op("Transpose", "x", perm=[1, 0, 2]), b.weight(4, 8))
    assert counted(b, x) == [("MatMul", 32, 6 * 4 * 8)]
