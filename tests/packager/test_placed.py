"""What ONNX Runtime and OpenVINO make of files, and why operators stayed float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from support.stored_graphs import Stored
from trimtab.targets import (
    onnxruntime_placed,
    onnxruntime_writer,
    openvino_placed,
    openvino_writer,
)
from trimtab.targets.placed import PlacedOperator, Placer
from trimtab.targets.writing import Writer, WriteRequest

TARGETS: dict[str, tuple[Writer, Placer]] = {
    "onnxruntime": (onnxruntime_writer.write, onnxruntime_placed.placed),
    "openvino": (openvino_writer.write, openvino_placed.placed),
}
PRODUCTS = ("MatMul", "QLinearMatMul", "MatMulNBits", "MatMulIntegerToFloat", "FullyConnected")
Place = Callable[[ir.Model], list[PlacedOperator]]


@pytest.fixture(params=TARGETS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    write, placed = TARGETS[request.param]

    def run(model: ir.Model) -> list[PlacedOperator]:
        found = placed(write(model, tmp_path, WriteRequest()).path, model)
        return [operator for operator in found if operator.operator in PRODUCTS]

    return run


def _pair(b: Stored, value: ir.Value) -> ir.Value:
    scale, zero = b.constant(np.float32(0.03)), b.constant(np.array(128, np.uint8))
    codes = b.op("QuantizeLinear", value, scale, zero)
    codes.type = ir.TensorType(ir.DataType.UINT8)
    return b.op("DequantizeLinear", codes, scale, zero)


def test_nothing_has_to_be_explained_in_a_float_file(place: Place) -> None:
    b = Stored(32)
    weight = b.constant(np.ones((32, 16), np.float32))
    (product,) = place(b.build(b.op("MatMul", b.x, weight)))
    assert (product.dtype, product.reason) == ("float32", None)


def test_products_between_pairs_are_integer_ones(place: Place) -> None:
    b = Stored(32)
    (product,) = place(b.build(_pair(b, b.op("MatMul", _pair(b, b.x), b.weight(32, 16)))))
    assert (product.dtype, product.reason) == ("int8", None)


def test_stored_weights_alone_are_the_reason(place: Place) -> None:
    b = Stored(32)
    (product,) = place(b.build(b.op("MatMul", b.x, b.weight(32, 16))))
    assert product.dtype == "float32"
    assert product.reason == "only its weights are stored as integers"


def test_activations_that_are_rounded_at_run_time_count_as_integers(place: Place) -> None:
    b = Stored(32)
    (product,) = place(b.build(b.op("MatMul", b.x, b.weight(32, 16, dynamic=True))))
    assert (product.dtype, product.reason) == ("int8", None)


def test_a_layer_that_was_left_in_float(place: Place) -> None:
    b = Stored(32)
    first = _pair(b, b.op("MatMul", _pair(b, b.x), b.weight(32, 32)))
    second = b.op("MatMul", b.op("Tanh", first), b.constant(np.ones((32, 8), np.float32)))
    found = place(b.build(second))
    assert [product.dtype for product in found] == ["int8", "float32"]
    assert found[1].reason == (
        "the graph has no pair of QuantizeLinear and DequantizeLinear before it"
    )


def test_every_float_operator_of_a_quantized_file_has_a_reason(tmp_path: Path) -> None:
    b = Stored(32)
    hidden = b.op("Erf", _pair(b, b.op("MatMul", _pair(b, b.x), b.weight(32, 32))))
    model = b.build(b.op("Softmax", hidden))
    for write, placed in TARGETS.values():
        found = placed(write(model, tmp_path, WriteRequest()).path, model)
        floats = [operator for operator in found if operator.dtype == "float32"]
        assert floats
        assert all(operator.reason for operator in floats)


def test_a_file_for_minimal_builds_can_be_read_too(tmp_path: Path) -> None:
    b = Stored(32)
    model = b.build(b.op("MatMul", b.x, b.weight(32, 16)))
    written = onnxruntime_writer.write(model, tmp_path, WriteRequest(form="ort"))
    assert [found.operator for found in onnxruntime_placed.placed(written.path, model)] == [
        "MatMul"
    ]
