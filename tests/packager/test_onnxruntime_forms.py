"""Files for ONNX Runtime: each form that a stored weight takes, run in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from support.quant_graphs import GRAPHS, TrainedLike
from support.stored_graphs import FLOAT, RNG, Stored, off
from trimtab.compress.affine import Range
from trimtab.compress.placement import quantized_groups
from trimtab.compress.quantize import quantize
from trimtab.graph.access import infer_shapes
from trimtab.graph.run import run_graph
from trimtab.targets import onnxruntime_writer
from trimtab.targets.onnxruntime_placed import placed
from trimtab.targets.writing import CPU_PROVIDER, WriteRequest
from trimtab_agent import runtimes


def written(model: ir.Model, folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Writes a graph; returns the file's operators, its answer, and the graph's own."""
    shape = [dim if isinstance(dim, int) else 1 for dim in model.graph.inputs[0].shape]
    if model.graph.inputs[0].dtype == FLOAT:
        samples = RNG.normal(size=(4, *shape[1:])).astype(np.float32)
    else:
        samples = RNG.integers(0, 32, (4, *shape[1:]))
    before = [node.op_type for node in model.graph]
    result = onnxruntime_writer.write(model, folder, WriteRequest())
    assert [node.op_type for node in model.graph] == before, "the graph itself stays as it is"
    file = onnx.load(result.path)
    session = runtimes.load("onnxruntime", result.path, options=result.options)
    actual = runtimes.run_samples(session, [samples])[0]
    return [node.op_type for node in file.graph.node], actual, run_graph(model, [samples])[0]


INT4, UINT4 = ml_dtypes.int4, ml_dtypes.uint4
PRODUCTS = {
    "int4 rows": ({"kind": INT4}, ["MatMulNBits"]),
    "int4 groups": ({"kind": INT4, "axis": 0, "block": 16}, ["MatMulNBits"]),
    "uint4 groups with zero points": (
        {"kind": UINT4, "axis": 0, "block": 32, "zero": 5},
        ["MatMulNBits"],
    ),
    "int8 rows": ({}, ["Cast", "Mul", "MatMul"]),
    "uint8 rows with zero points": (
        {"kind": np.uint8, "zero": 99},
        ["Cast", "Sub", "Mul", "MatMul"],
    ),
    "int8 groups": ({"axis": 0, "block": 32}, ["Cast", "Reshape", "Mul", "Reshape", "MatMul"]),
    "int4 groups too small": (
        {"kind": INT4, "axis": 0, "block": 4},
        ["Cast", "Reshape", "Mul", "Reshape", "MatMul"],
    ),
    "int8 by inputs": ({"axis": 0}, ["Cast", "Mul", "MatMul"]),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("inputs", [96, 100])
def test_a_product_gives_the_graphs_outputs(name, inputs, tmp_path):
    options, operators = PRODUCTS[name]
    if inputs % options.get("block", 1):
        pytest.skip("groups divide rows")
    b = Stored(inputs)
    model = b.build(b.op("MatMul", b.x, b.weight(inputs, 10, **options), shape=["batch", 10]))
    found, actual, expected = written(model, tmp_path)
    assert found == operators
    assert off(actual, expected) < 1e-5


@pytest.mark.parametrize("kind", [np.int8, INT4])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_dense_layer_keeps_its_bias(kind, transposed, dynamic, tmp_path):
    b = Stored(64)
    shape = (10, 64) if transposed else (64, 10)
    weight = b.weight(*shape, kind=kind, axis=1 - transposed, dynamic=dynamic)
    bias = b.constant(RNG.normal(size=10).astype(np.float32))
    model = b.build(b.op("Gemm", b.x, weight, bias, transB=transposed, shape=["batch", 10]))
    found, actual, expected = written(model, tmp_path)
    assert ("MatMulNBits" in found) == (dynamic or kind is INT4)
    assert off(actual, expected) < (0.03 if dynamic else 1e-5)


@pytest.mark.parametrize("shape", [(1,), (1, 10), ()])
def test_a_bias_that_is_broadcast_is_added_behind_the_kernel(shape, tmp_path):
    b = Stored(64)
    bias = b.constant(RNG.normal(size=shape).astype(np.float32))
    weight = b.weight(64, 10, kind=INT4)
    model = b.build(b.op("Gemm", b.x, weight, bias, shape=["batch", 10]))
    found, actual, expected = written(model, tmp_path)
    assert found == ["MatMulNBits", "Add"]
    assert off(actual, expected) < 1e-5


ROUNDED = {
    "one row": ([64], {}),
    "a free number of rows": (["time", 64], {}),
    "zero points": ([7, 64], {"kind": np.uint8, "zero": 100}),
    "groups": ([7, 64], {"axis": 0, "block": 32}),
    "4 bits": ([7, 64], {"kind": INT4}),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_activations_are_rounded_where_the_graph_permits_it(name, tmp_path):
    shape, options = ROUNDED[name]
    b = Stored(*shape)
    model = b.build(b.op("MatMul", b.x, b.weight(64, 48, dynamic=True, **options)))
    found, actual, expected = written(model, tmp_path)
    assert found == ["MatMulNBits"]
    assert 1e-5 < off(actual, expected) < 0.03


def test_rows_of_activations_do_not_share_a_scale(tmp_path):
    """One large row must not drown the others, as under one scale for all of them."""
    b = Stored(2, 64)
    factors = b.constant(np.array([[1.0], [1000.0]], np.float32))
    product = b.op("MatMul", b.op("Mul", b.x, factors), b.weight(64, 48, dynamic=True))
    _, actual, expected = written(b.build(product), tmp_path)
    assert off(actual[:, 0], expected[:, 0]) < 0.03


TABLES = {
    "int8 rows": {"axis": 0},
    "int8 groups": {"axis": 1, "block": 16},
    "uint8 rows with zero points": {"kind": np.uint8, "axis": 0, "zero": 120},
    "int4 rows": {"kind": INT4, "axis": 0},
    "uint4 groups with zero points": {"kind": UINT4, "axis": 1, "block": 16, "zero": 7},
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("width", [48, 64])
def test_a_table_is_read_row_by_row(name, width, tmp_path):
    b = Stored(6, dtype=ir.DataType.INT64)
    model = b.build(b.op("Gather", b.weight(32, width, **TABLES[name]), b.x))
    found, actual, expected = written(model, tmp_path)
    assert found == ["GatherBlockQuantized"]
    assert off(actual, expected) < 1e-5


def test_a_table_that_is_also_a_matrix_is_stored_once(tmp_path):
    b = Stored(6, dtype=ir.DataType.INT64)
    table = b.weight(32, 48, axis=0)
    rows = b.op("Gather", table, b.x)
    model = b.build(b.op("MatMul", rows, b.op("Transpose", table, perm=[1, 0])))
    found, actual, expected = written(model, tmp_path)
    assert sorted(found) == sorted(["Cast", "Mul", "Gather", "Transpose", "MatMul"])
    assert off(actual, expected) < 1e-5


@pytest.mark.parametrize("kind", [np.int8, INT4])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_convolution_reads_floats_that_are_made_on_loading(kind, dynamic, tmp_path):
    b = Stored(4, 8, 8)
    matrix = b.weight(6, 36, kind=kind, axis=1, block=4, dynamic=dynamic)
    kernel = b.op("Reshape", matrix, b.constant(np.array([6, 4, 3, 3])), shape=(6, 4, 3, 3))
    model = b.build(b.op("Conv", b.x, kernel, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    found, actual, expected = written(model, tmp_path)
    assert "DequantizeLinear" not in found
    assert off(actual, expected) < 1e-5
    session = runtimes.load("onnxruntime", tmp_path / "model.onnx")
    assert session.inputs[0].shape[1:] == (4, 8, 8)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_recurrent_layer(dynamic, tmp_path):
    b = Stored(3, 8)
    sequence = b.op("Transpose", b.x, perm=[1, 0, 2])
    wide = b.constant(np.array([2, 64, 8])), b.constant(np.array([2, 64, 16]))
    w, r = (
        b.op("Reshape", b.weight(128, size, axis=0, dynamic=dynamic), shape, shape=dims)
        for size, shape, dims in ((8, wide[0], (2, 64, 8)), (16, wide[1], (2, 64, 16)))
    )
    bias = b.constant(RNG.normal(size=(2, 128)).astype(np.float32))
    states = b.op("LSTM", sequence, w, r, bias, hidden_size=16, direction="bidirectional")
    model = b.build(b.op("Transpose", states, perm=[2, 0, 1, 3]))
    found, actual, expected = written(model, tmp_path)
    assert ("DynamicQuantizeLSTM" in found) == dynamic
    assert "DequantizeLinear" not in found
    assert off(actual, expected) < (0.05 if dynamic else 1e-5)


def test_half_precision_tables_stay_in_half_precision(tmp_path):
    b = Stored(6, dtype=ir.DataType.INT64)
    half = b.constant(RNG.normal(size=(32, 20)).astype(np.float16))
    model = b.build(b.op("Gather", b.op("Cast", half, to=1), b.x))
    found, actual, expected = written(model, tmp_path)
    assert found == ["Gather", "Cast"]
    assert np.array_equal(actual, expected)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_pairs_of_16_bits_are_left_out(kind, tmp_path):
    b = Stored(64)
    scale, zero = b.constant(np.float32(1e-3)), b.constant(np.array(5, kind))
    codes = b.op("QuantizeLinear", b.op("Relu", b.x), scale, zero)
    codes.type = ir.TensorType(ir.DataType.INT16 if kind is np.int16 else ir.DataType.UINT16)
    rounded = b.op("DequantizeLinear", codes, scale, zero)
    model = b.build(b.op("MatMul", rounded, b.weight(64, 10)))
    found, actual, expected = written(model, tmp_path)
    assert found == ["Relu", "Cast", "Mul", "MatMul"]
    assert off(actual, expected) < 1e-2


def test_pairs_of_an_integer_kernel_stay(tmp_path):
    b = Stored(64)
    scale, zero = b.constant(np.float32(0.03)), b.constant(np.array(128, np.uint8))

    def pair(value: ir.Value) -> ir.Value:
        codes = b.op("QuantizeLinear", value, scale, zero)
        codes.type = ir.TensorType(ir.DataType.UINT8)
        return b.op("DequantizeLinear", codes, scale, zero)

    model = b.build(b.op("Exp", pair(b.op("MatMul", pair(b.x), b.weight(64, 10)))))
    found, actual, expected = written(model, tmp_path)
    assert found.count("DequantizeLinear") == 3
    assert np.array_equal(actual, expected)


def quantized(make: Callable[[], ir.Model]) -> ir.Model:
    model = make()
    infer_shapes(model)
    values = [name for group in quantized_groups(model.graph) for name in group]
    return quantize(model, dict.fromkeys(values, Range(-4, 4)))


def one_input_channel(before: str, channels: int = 1) -> ir.Model:
    b = TrainedLike(channels, 12, 12)
    x = "x" if before == "Conv" else b.op("Sigmoid", "x")
    return b.classifier(b.conv_relu(b.conv_relu(x, channels, 8), 8, 8), 8)


def narrow_inside() -> ir.Model:
    """A convolution of two channels whose input is what an integer kernel gave."""
    b = TrainedLike(3, 12, 12)
    return b.classifier(b.conv_relu(b.conv_relu("x", 3, 2), 2, 8), 8)


@pytest.mark.parametrize(
    ("make", "provider", "kernels"),
    [
        (lambda: one_input_channel("Conv"), CPU_PROVIDER, ["Conv", "QLinearConv"]),
        (lambda: one_input_channel("Sigmoid"), CPU_PROVIDER, ["Conv", "QLinearConv"]),
        (lambda: one_input_channel("Conv"), "QNNExecutionProvider", ["QLinearConv"] * 2),
        (lambda: one_input_channel("Conv", channels=5), CPU_PROVIDER, ["QLinearConv"] * 2),
        (GRAPHS["concat"], CPU_PROVIDER, ["QLinearConv"] * 3),  # two convolutions share a pair
        (narrow_inside, CPU_PROVIDER, ["Conv", "QLinearConv"]),
    ],
    ids=["first", "behind a float layer", "other provider", "five channels", "shared", "inside"],
)
def test_a_convolution_of_few_channels_behind_floats_is_float(make, provider, kernels, tmp_path):
    model = quantized(make)
    result = onnxruntime_writer.write(model, tmp_path, WriteRequest(provider=provider))
    found = [each for each in placed(result.path, model) if "Conv" in each.operator]
    assert sorted(each.operator for each in found) == kernels
    assert all(each.reason for each in found if each.dtype == "float32")
    samples = RNG.normal(size=(4, *model.graph.inputs[0].shape[1:])).astype(np.float32)
    session = runtimes.load("onnxruntime", result.path)
    (actual,) = runtimes.run_samples(session, [samples])
    assert off(actual, run_graph(model, [samples])[0]) < 0.1
