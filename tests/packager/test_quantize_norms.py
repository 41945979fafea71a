"""Norms that a graph writes out stay float in quantized graphs, and nothing else does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.quant_graphs import TrainedLike
from trimtab.compress.norms import norm_nodes
from trimtab.compress.placement import Placement, place


def start() -> tuple[TrainedLike, str]:
    b = TrainedLike(8, 12, 12)
    return b, b.conv("x", 8, 8)


def small(b: TrainedLike) -> str:
    return b.constant(1e-3, np.float32)


def divided() -> ir.Model:
    """PyTorch's, over channels, which LayerNormalization cannot take as they lie."""
    b, x = start()
    centred = b.op("Sub", x, b.op("ReduceMean", x, axes=[1], keepdims=1))
    square = b.op("Pow", centred, b.constant(2, np.float32))
    variance = b.op("ReduceMean", square, axes=[1], keepdims=1)
    root = b.op("Sqrt", b.op("Add", variance, small(b)))
    scaled = b.op("Mul", b.op("Div", centred, root), b.positive(1, 8, 1, 1))
    return b.classifier(b.conv_relu(b.op("Add", scaled, b.weight(1, 8, 1, 1)), 8, 8), 8)


def with_transposes() -> ir.Model:
    """Keras', with the transposes that tf2onnx moves into the midst of it."""
    b, x = start()
    mean = b.op("ReduceMean", x, axes=[1], keepdims=1)
    minus = b.op("Neg", b.op("Transpose", mean, perm=[0, 2, 3, 1]))
    centred = b.op("Sub", x, mean)
    variance = b.op("ReduceMean", b.op("Mul", centred, centred), axes=[1], keepdims=1)
    inverse = b.op("Reciprocal", b.op("Sqrt", b.op("Add", variance, small(b))))
    factor = b.op("Mul", inverse, b.positive(1, 8, 1, 1))
    factor = b.op("Transpose", factor, perm=[0, 2, 3, 1])
    moved = b.op("Transpose", x, perm=[0, 2, 3, 1])
    shift = b.op("Add", b.op("Mul", minus, factor), b.weight(8))
    y = b.op("Add", b.op("Mul", moved, factor), shift)
    y = b.op("Transpose", b.op("Relu", y), perm=[0, 3, 1, 2])
    return b.classifier(b.conv_relu(y, 8, 8), 8)


def root_mean_square() -> ir.Model:
    """RMSNorm before a branch, with a residual around both."""
    b, x = start()
    mean = b.op("ReduceMean", b.op("Mul", x, x), axes=[1], keepdims=1)
    inverse = b.op("Reciprocal", b.op("Sqrt", b.op("Add", mean, small(b))))
    y = b.op("Mul", b.op("Mul", x, inverse), b.positive(1, 8, 1, 1))
    joined = b.op("Add", x, b.conv(b.conv_relu(y, 8, 8), 8, 8))
    return b.classifier(b.conv_relu(joined, 8, 8), 8)


def unit_length() -> ir.Model:
    b, x = start()
    flat = b.op("Flatten", b.op("GlobalAveragePool", x))
    y = b.op("Gemm", flat, b.weight(8, 6), b.weight(6))
    total = b.op("ReduceSum", b.op("Mul", y, y), b.constant([1]), keepdims=1)
    inverse = b.op("Reciprocal", b.op("Sqrt", b.op("Max", total, small(b))))
    return b.build(b.op("Mul", y, inverse))


def reads_codes(node: ir.Node, placement: Placement) -> bool:
    named = {name for group in placement.groups for name in group}
    return placement.takes_codes(node) and str(node.inputs[0].name) in named


@pytest.mark.parametrize(
    ("make", "operators"),
    [
        (divided, "ReduceMean Sub Pow ReduceMean Add Sqrt Div"),
        (
            with_transposes,
            "ReduceMean Transpose Neg Sub Mul ReduceMean Add Sqrt Reciprocal Mul Transpose",
        ),
        (root_mean_square, "Mul ReduceMean Add Sqrt Reciprocal Mul"),
        (unit_length, "Mul ReduceSum Max Sqrt Reciprocal Mul"),
    ],
)
def test_a_norm_stays_float(make, operators):
    graph = make().graph
    inside = norm_nodes(graph)
    found = [node.op_type for node in graph if node in inside]
    assert found[: len(operators.split())] == operators.split()
    assert set(found[len(operators.split()) :]) <= {"Mul", "Add"}, "its scale and bias"
    placement = place(graph)
    assert not any(placement.takes_codes(node) for node in inside)


@pytest.mark.parametrize("make", [divided, with_transposes, root_mean_square])
def test_layers_around_a_norm_are_quantized(make):
    graph = make().graph
    placement = place(graph)
    layers = [node for node in graph if node.op_type in ("Conv", "Gemm")]
    assert layers
    assert all(reads_codes(layer, placement) for layer in layers)


def test_a_residual_around_a_norm_adds_codes():
    graph = root_mean_square().graph
    joined = [node for node in graph if node.op_type == "Add"][-1]
    assert reads_codes(joined, place(graph))


def test_a_square_is_computed_in_float_and_a_product_is_not():
    b, x = start()
    square = b.op("Mul", x, x)
    product = b.op("Mul", b.conv(square, 8, 8), x)
    graph = b.classifier(b.conv_relu(product, 8, 8), 8).graph
    first, second = (node for node in graph if node.op_type == "Mul")
    placement = place(graph)
    assert not placement.takes_codes(first)
    assert placement.takes_codes(second)


def test_a_mean_without_a_root_is_no_norm():
    b, x = start()
    gate = b.conv(b.op("ReduceMean", x, axes=[2, 3], keepdims=1), 8, 8, kernel=1)
    graph = b.classifier(b.conv_relu(b.op("Mul", x, gate), 8, 8), 8).graph
    assert not norm_nodes(graph)
    placement = place(graph)
    assert all(placement.takes_codes(node) for node in graph if node.op_type == "ReduceMean")
