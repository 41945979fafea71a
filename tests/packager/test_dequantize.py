"""A quantized graph made float again computes nearly what it did, and has no integers left."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.graphs import GraphBuilder
from trimtab.errors import UnsupportedOperatorError
from trimtab.graph.clean import clean
from trimtab.graph.dequantize import dequantized
from trimtab.graph.describe import describe
from trimtab.graph.run import run_graph


def quantized_graph() -> ir.Model:
    """Activations in int8, weights per channel and in blocks, a per-channel bias in int32."""
    b = GraphBuilder(3, 8, 8)
    rng = np.random.default_rng(0)

    def activation(x: str, scale: float) -> str:
        parameters = b.constant(scale, np.float32), b.constant(3, np.int8)
        return b.op("DequantizeLinear", b.op("QuantizeLinear", x, *parameters), *parameters)

    stored = b.constant(rng.integers(-127, 128, (6, 3, 3, 3)), np.int8)
    zeros = b.constant(rng.integers(-3, 4, 6), np.int8)
    scales = b.constant(rng.uniform(0.001, 0.01, 6), np.float32)
    weight = b.op("DequantizeLinear", stored, scales, zeros, axis=0)
    bias = b.op("DequantizeLinear", b.constant(rng.integers(-99, 99, 6), np.int32), scales, axis=0)
    x = b.op("Conv", activation("x", 0.03), weight, bias, pads=[1, 1, 1, 1])
    return b.classifier(b.op("Relu", activation(x, 0.1)), 6)


def test_outputs_are_nearly_what_they_were():
    model = clean(quantized_graph())
    plain = dequantized(model)
    assert describe(model).quantized
    assert not describe(plain).quantized
    assert "Identity" not in describe(plain).operators
    data = [np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)]
    expected = run_graph(model, data)[0]
    assert np.abs(run_graph(plain, data)[0] - expected).max() < 0.05 * np.abs(expected).max()


def test_stored_integers_become_what_they_stand_for():
    b = GraphBuilder(4)
    rng = np.random.default_rng(0)
    stored, zero = rng.integers(-8, 8, (4, 5)), rng.integers(-2, 2, (2, 5))
    scale = rng.uniform(0.1, 1, (2, 5)).astype(np.float32)
    inputs = (
        b.constant(stored, np.int8),
        b.constant(scale, np.float32),
        b.constant(zero, np.int8),
    )
    weight = b.op("DequantizeLinear", *inputs, axis=0, block_size=2)
    model = b.build(b.op("MatMul", "x", weight))
    model.opset_imports[""] = 21
    found = next(iter(dequantized(model).graph.initializers.values())).const_value.numpy()
    wanted = (stored - np.repeat(zero, 2, axis=0)) * np.repeat(scale, 2, axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_integer_inputs_and_outputs_become_floats():
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["f"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.INT8, ["n", 4]) for n in ("x", "y")]
    weights = [
        numpy_helper.from_array(np.float32(0.5), "s"),
        numpy_helper.from_array(np.int8(1), "z"),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    plain = dequantized(ir.from_proto(proto))
    onnx.checker.check_model(ir.to_proto(plain), full_check=True)
    assert [(p.name, p.dtype) for p in (*describe(plain).inputs, *describe(plain).outputs)] == [
        ("x", "float32"), ("y", "float32"),
    ]  # fmt: skip


def test_integer_kernels_are_refused_by_name():
    b = GraphBuilder(4)
    weight = b.constant(np.ones((4, 5)), np.int8)
    model = b.build(b.op("Cast", b.op("MatMulInteger", "x", weight), to=TensorProto.FLOAT))
    with pytest.raises(UnsupportedOperatorError, match="a graph with MatMulInteger cannot be made"):
        dequantized(model)
