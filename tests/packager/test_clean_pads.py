"""Borders of zeros become the padding of the operator behind them, where it means the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import CLASSES, GraphBuilder
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph

CORNER = [0, 0, 0, 0, 0, 0, 1, 1]


def pad(b: GraphBuilder, value: str, widths: list[int], fill: float = 0.0, **more: object) -> str:
    return b.op("Pad", value, b.constant(widths), b.constant(fill, np.float32), **more)


def convolved(b: GraphBuilder, value: str, **options: object) -> ir.Model:
    attributes = {"pads": [0, 0, 0, 0], "strides": [2, 2], **options}
    attributes = {name: value for name, value in attributes.items() if value is not None}
    weight = b.weight(4, 3, 3, 3)
    return b.classifier(b.op("Relu", b.op("Conv", value, weight, b.weight(4), **attributes)), 4)


def pooled(b: GraphBuilder, value: str, operator: str, **options: object) -> ir.Model:
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], **options}
    return b.classifier(b.op(operator, value, **attributes), 3)


def two_readers(b: GraphBuilder) -> ir.Model:
    padded = pad(b, "x", CORNER)
    one, other = (b.op("Conv", padded, b.weight(4, 3, 3, 3)) for _ in range(2))
    return b.classifier(b.op("Add", one, other), 4)


def one_reader_that_cannot(b: GraphBuilder) -> ir.Model:
    padded = pad(b, "x", CORNER)
    kept = b.op("Exp", b.op("GlobalMaxPool", padded))
    convolution = b.op("Conv", padded, b.weight(3, 3, 3, 3))
    return b.classifier(b.op("Mul", convolution, kept), 3)


def by_axes(b: GraphBuilder) -> ir.Model:
    fill = b.constant(0.0, np.float32)
    padded = b.op("Pad", "x", b.constant([1, 0]), fill, b.constant([-1]))
    model = convolved(b, padded)
    model.opset_imports[""] = 18  # the first with axes
    return model


FOLDED = {
    "a corner": lambda b: convolved(b, pad(b, "x", CORNER)),
    "beside its own padding": lambda b: convolved(b, pad(b, "x", CORNER), pads=[1, 1, 1, 1]),
    "valid": lambda b: convolved(b, pad(b, "x", CORNER), auto_pad="VALID", pads=None),
    "two readers": two_readers,
    "some axes": by_axes,
    "maximum of a Relu": lambda b: pooled(b, pad(b, b.op("Relu", "x"), CORNER), "MaxPool"),
    "mean": lambda b: pooled(b, pad(b, "x", CORNER), "AveragePool"),
    "mean with borders": lambda b: pooled(
        b, pad(b, "x", CORNER), "AveragePool", pads=[1, 1, 1, 1], count_include_pad=1
    ),
}
KEPT = {
    "another fill": lambda b: convolved(b, pad(b, "x", CORNER, 0.5)),
    "mirrored": lambda b: convolved(b, pad(b, "x", CORNER, mode="reflect")),
    "cut off": lambda b: convolved(b, pad(b, "x", [0, 0, -1, 0, 0, 0, 0, 0])),
    "channels": lambda b: b.classifier(pad(b, "x", [0, 1, 0, 0, 0, 0, 0, 0]), 4),
    "same": lambda b: convolved(b, pad(b, "x", CORNER), auto_pad="SAME_UPPER", pads=None),
    "a reader that cannot": one_reader_that_cannot,
    "maximum of any numbers": lambda b: pooled(b, pad(b, "x", CORNER), "MaxPool"),
    "mean that leaves borders out": lambda b: pooled(
        b, pad(b, "x", CORNER), "AveragePool", pads=[1, 1, 1, 1]
    ),
}


def check(build, *, folds: bool) -> None:
    b = GraphBuilder(3, 8, 8)
    model = build(b)
    cleaned = clean(model)
    x = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    (expected,), (actual,) = (run_graph(each, (x,)) for each in (model, cleaned))
    assert expected.shape == (4, CLASSES)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert ("Pad" not in {node.op_type for node in cleaned.graph}) == folds


@pytest.mark.parametrize("name", FOLDED)
def test_pad_is_left_to_the_operator_behind_it(name):
    check(FOLDED[name], folds=True)


@pytest.mark.parametrize("name", KEPT)
def test_pad_that_means_something_else_stays(name):
    check(KEPT[name], folds=False)
