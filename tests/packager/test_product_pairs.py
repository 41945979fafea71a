"""Pairs behind products go where nobody reads codes, and ranges of answers are not clipped."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import CLASSES, GraphBuilder
from support.techniques import context, small_dataset
from trimtab.compress.calibrate import calibrate
from trimtab.compress.quantize import QuantizeInt8, apply
from trimtab.graph.answers import is_answer
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph
from trimtab.targets import export
from trimtab.targets.operators import PLACERS
from trimtab.targets.product_pairs import drop_product_pairs


def network(ending: str | None) -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    pooled = b.op("Flatten", b.op("GlobalAveragePool", b.conv_relu("x", 3, 16)))
    logits = b.dense(pooled, 16, CLASSES)
    return clean(b.build(logits if ending is None else b.op(ending, logits)))


def quantized(model: ir.Model) -> ir.Model:
    return apply(model, QuantizeInt8(), context(model, small_dataset(model)))


@pytest.mark.parametrize("ending", [None, "Softmax", "Sigmoid"])
def test_logits_are_answers_and_nothing_else_is(ending):
    model = network(ending)
    answers = [node.op_type for node in model.graph if is_answer(node.outputs[0])]
    assert answers == ["Gemm", *([ending] if ending else [])]


def test_range_of_answers_is_not_clipped():
    model = network(None)
    x = np.random.default_rng(0).normal(size=(256, 3, 8, 8)).astype(np.float32)
    x[0] *= 50  # an outlier that every other range gives up
    names = [str(node.outputs[0].name) for node in model.graph]
    wide = calibrate(model, (x,), names, method="minmax")
    tight = calibrate(model, (x,), names, method="percentile")
    by_type = {node.op_type: str(node.outputs[0].name) for node in model.graph}
    assert tight[by_type["Gemm"]] == wide[by_type["Gemm"]]
    assert tight[by_type["Relu"]].high < wide[by_type["Relu"]].high


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("ending", [None, "Softmax"])
def test_last_product_computes_integers_and_writes_floats(target, ending, tmp_path):
    model = network(ending)
    small = quantized(model)
    lowered = small.clone()
    assert drop_product_pairs(lowered) == 1
    assert [value.name for value in lowered.graph.outputs] == [
        value.name for value in model.graph.outputs
    ]
    x = np.random.default_rng(1).normal(size=(32, 3, 8, 8)).astype(np.float32)
    rounded, exact, truth = (run_graph(each, (x,))[0] for each in (small, lowered, model))
    assert np.square(exact - truth).mean() < np.square(rounded - truth).mean()
    exported = export(small, target, tmp_path, samples=(x,))
    products = {
        each.operator: each
        for each in PLACERS[target](exported.path, small)
        if each.operator in ("QGemm", "Gemm", "FullyConnected", "MatMul", "com.microsoft.QGemm")
    }
    assert products
    assert all(each.reason is None for each in products.values()), products


def transformer_like(reader: str) -> ir.Model:
    """A product whose result a bias, a Softmax or another product reads."""
    b = GraphBuilder(6, 8)
    product = b.op("MatMul", "x", b.weight(8, 16))
    if reader == "bias":
        read = b.op("Erf", b.op("Add", product, b.weight(16)))
    elif reader == "branches":
        read = b.op("Add", product, b.op("MatMul", "x", b.weight(8, 16)))
    else:
        read = product if reader == "product" else b.op(reader, product)
    read = b.op("MatMul", read, b.weight(16, 8))
    return clean(b.build(b.dense(b.op("Flatten", read), 48, CLASSES)))


@pytest.mark.parametrize(
    ("reader", "dropped"),
    [("bias", 1), ("Softmax", 1), ("Sigmoid", 1), ("product", 0), ("branches", 0)],
)
def test_pairs_that_only_floats_are_read_of_go(reader, dropped, tmp_path):
    model = transformer_like(reader)
    small = apply(model, QuantizeInt8(), context(model, small_dataset(model)))
    lowered = small.clone()
    assert drop_product_pairs(lowered) == dropped + 1  # the answers'
    x = np.random.default_rng(2).normal(size=(16, 6, 8)).astype(np.float32)
    for target in ("onnxruntime", "openvino"):
        exported = export(small, target, tmp_path, samples=(x,))
        assert exported.comparison.cosine > 0.99
        products = [each for each in PLACERS[target](exported.path, small) if each.dtype == "int8"]
        assert products
