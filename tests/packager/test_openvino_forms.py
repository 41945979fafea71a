"""Files for OpenVINO: how weights are stored, and what becomes of activations."""

from __future__ import annotations

import logging
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from support.stored_graphs import Stored, off
from trimtab.errors import UnsupportedOperatorError
from trimtab.graph.run import run_graph
from trimtab.targets import openvino_writer
from trimtab.targets.openvino_activations import drop_activation_pairs
from trimtab.targets.writing import WriteRequest
from trimtab_agent import runtimes

RNG = np.random.default_rng(1)
INT4 = ml_dtypes.int4


def written(model: ir.Model, folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Writes a graph; returns the file with weights, the file's answer, and the graph's own."""
    shape = [dim if isinstance(dim, int) else 5 for dim in model.graph.inputs[0].shape]
    samples = RNG.normal(size=(4, *shape[1:])).astype(np.float32)
    result = openvino_writer.write(model, folder, WriteRequest())
    session = runtimes.load("openvino", result.path, options=result.options)
    (actual,) = runtimes.run_samples(session, [samples])
    return folder / "model.bin", actual, run_graph(model, [samples])[0]


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_take_two_bytes(kind, tmp_path):
    b = Stored(64)
    half = b.constant((RNG.normal(size=(64, 32)) * 1e-6).astype(kind))
    model = b.build(b.op("MatMul", b.x, b.op("Cast", half, to=1)))
    file, actual, expected = written(model, tmp_path)
    assert 64 * 32 * 2 <= file.stat().st_size < 64 * 32 * 2 + 128
    assert off(actual, expected) < 1e-5


def test_float_weights_are_not_rounded(tmp_path):
    b = Stored(64)
    model = b.build(b.op("MatMul", b.x, b.constant(RNG.normal(size=(64, 32)).astype(np.float32))))
    file, actual, expected = written(model, tmp_path)
    assert file.stat().st_size >= 64 * 32 * 4
    assert off(actual, expected) < 1e-6


@pytest.mark.parametrize("kind", [np.int8, INT4])
@pytest.mark.parametrize("group", [None, 16])
def test_integer_weights_stay_small(kind, group, tmp_path):
    b = Stored(64)
    model = b.build(
        b.op("MatMul", b.x, b.weight(64, 96, kind=kind, axis=0 if group else 1, block=group))
    )
    file, actual, expected = written(model, tmp_path)
    bits = 4 if kind is INT4 else 8
    scales = 96 * 64 // 16 * 2 if group else 96 * 4
    assert file.stat().st_size < 64 * 96 * bits / 8 + scales + 256
    assert off(actual, expected) < 1e-3


@pytest.mark.parametrize("kind", [np.int8, INT4])
@pytest.mark.parametrize("group", [None, 32])
def test_activations_are_rounded_only_where_all_products_permit_it(kind, group, tmp_path):
    def model(*permissions: bool) -> ir.Model:
        b = Stored(7, 128)
        axis = 0 if group else 1
        value = b.x
        for dynamic in permissions:
            weight = b.weight(128, 128, kind=kind, axis=axis, block=group, dynamic=dynamic)
            value = b.op("MatMul", value, weight)
        return b.build(value)

    _, actual, expected = written(model(True, True), tmp_path)
    assert 1e-3 < off(actual, expected) < 0.05
    _, actual, expected = written(model(True, False), tmp_path)
    assert off(actual, expected) < 1e-3


def test_scales_too_small_for_half_precision_stay_as_they_are(tmp_path):
    b = Stored(64)
    weight = b.weight(64, 32, kind=INT4, axis=0, block=16)
    scales = b.initializers[1]
    scales.const_value = ir.tensor(scales.const_value.numpy() * np.float32(1e-6), name=scales.name)
    _, actual, expected = written(b.build(b.op("MatMul", b.x, weight)), tmp_path)
    assert off(actual, expected) < 1e-5


def test_a_device_runs_one_sample_at_a_time(tmp_path):
    b = Stored("time", 16)
    model = b.build(b.op("Relu", b.x))
    written(model, tmp_path)
    session = runtimes.load("openvino", tmp_path / "model.xml")
    assert session.inputs[0].shape == (1, None, 16)


def test_a_graph_that_cannot_have_one_sample_stays_free(tmp_path):
    b = Stored(4)
    pairs = b.op("Reshape", b.x, b.constant(np.array([-1, 8])))
    model = b.build(pairs)
    openvino_writer.write(model, tmp_path, WriteRequest())
    session = runtimes.load("openvino", tmp_path / "model.xml")
    assert session.inputs[0].shape == (None, 4)


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_between_pairs_stay_float_and_small(operator, gates, tmp_path):
    hidden, features = 32, 16
    b = Stored(7, features)

    def weight(width: int) -> ir.Value:
        codes = b.constant(RNG.integers(-127, 128, (1, gates * hidden, width)).astype(np.int8))
        scales = b.constant(RNG.uniform(1e-3, 3e-3, (1, gates * hidden, 1)).astype(np.float32))
        return b.op("DequantizeLinear", codes, scales, axis=2, block_size=width)

    step, zero = b.constant(np.float32(0.03)), b.constant(np.uint8(128))
    codes = b.op("QuantizeLinear", b.x, step, zero)
    codes.type = ir.TensorType(ir.DataType.UINT8)
    paired = b.op("Transpose", b.op("DequantizeLinear", codes, step, zero), perm=[1, 0, 2])
    layer = b.op(operator, paired, weight(features), weight(hidden), hidden_size=hidden)
    layer = b.op("Squeeze", layer, b.constant(np.array([1])))
    model = b.build(b.op("Transpose", layer, perm=[1, 0, 2]))
    file, actual, expected = written(model, tmp_path)
    assert off(actual, expected) < 1e-5
    codes_bytes = gates * hidden * (features + hidden)
    assert file.stat().st_size < 1.2 * codes_bytes + gates * hidden * 16


def test_a_comma_in_the_path_and_the_log_of_the_program(tmp_path):
    """`openvino.convert_model` splits paths at commas, and sets the level of the root logger."""
    b = Stored(64)
    model = b.build(b.op("MatMul", b.x, b.weight(64, 10)))
    before = logging.getLogger().level
    folder = tmp_path / "a,b"
    folder.mkdir()
    _, actual, expected = written(model, folder)
    assert off(actual, expected) < 1e-5
    other = Stored(64)
    column = other.op("Unsqueeze", other.x, other.constant(np.array([1])))
    with pytest.raises(UnsupportedOperatorError, match="OpenVINO has no Det"):
        openvino_writer.write(other.build(other.op("Det", column)), folder, WriteRequest())
    assert logging.getLogger().level == before


def _convolution_and(activation: str) -> ir.Model:
    b = Stored(4, 8, 8)
    step, zero = b.constant(np.float32(0.04)), b.constant(np.uint8(128))

    def rounded(value: ir.Value) -> ir.Value:
        codes = b.op("QuantizeLinear", value, step, zero)
        codes.type = ir.TensorType(ir.DataType.UINT8)
        return b.op("DequantizeLinear", codes, step, zero)

    codes = b.constant(RNG.integers(-127, 128, (16, 4, 3, 3)).astype(np.int8))
    scales = b.constant(RNG.uniform(2e-3, 4e-3, 16).astype(np.float32))
    weight = b.op("DequantizeLinear", codes, scales, axis=0)
    layer = rounded(b.op("Conv", rounded(b.x), weight, pads=[1, 1, 1, 1]))
    if activation == "Swish":
        return b.build(rounded(b.op("Mul", layer, rounded(b.op("Sigmoid", layer)))))
    return b.build(rounded(b.op(activation, layer)))


@pytest.mark.parametrize(("activation", "pairs"), [("HardSwish", 2), ("Swish", 2), ("Relu", 3)])
def test_activation_functions_read_the_sums_of_convolutions(activation, pairs, tmp_path):
    model = _convolution_and(activation)
    _, actual, expected = written(model, tmp_path)
    assert off(actual, expected) < 0.03
    drop_activation_pairs(model)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == pairs
