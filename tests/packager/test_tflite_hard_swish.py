"""HardSwish between int8 layers of a TFLite file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.stored_graphs import RNG, Stored, off
from trimtab.graph.run import run_graph
from trimtab.targets.tflite_flatbuffer import operator_name, type_name, unpack
from trimtab.targets.tflite_placed import placed
from trimtab.targets.tflite_writer import write
from trimtab.targets.writing import WriteRequest
from trimtab_agent import runtimes

pytestmark = pytest.mark.slow


def rounded(b: Stored, value: ir.Value) -> ir.Value:
    operands = b.constant(np.float32(0.04)), b.constant(np.uint8(128))
    codes = b.op("QuantizeLinear", value, *operands)
    codes.type = ir.TensorType(ir.DataType.UINT8)
    return b.op("DequantizeLinear", codes, *operands, shape=value.shape)


def test_hard_swish_runs_in_float_between_int8_layers(tmp_path):
    b = Stored(16)
    hidden = b.op("MatMul", rounded(b, b.x), b.weight(16, 16), shape=["batch", 16])
    hidden = b.op("HardSwish", rounded(b, hidden), shape=["batch", 16])
    result = b.op("MatMul", rounded(b, hidden), b.weight(16, 8), shape=["batch", 8])
    model = b.build(rounded(b, result))
    samples = RNG.normal(size=(8, 16)).astype(np.float32)
    written = write(model, tmp_path, WriteRequest())
    (actual,) = runtimes.run_samples(runtimes.load("tflite", written.path), [samples])
    assert off(actual, run_graph(model, [samples])[0]) < 0.05
    file = unpack(written.path.read_bytes())
    (graph,) = file.subgraphs
    kinds = {
        operator_name(file, operator): type_name(graph.tensors[operator.inputs[0]])
        for operator in graph.operators
    }
    assert kinds["HARD_SWISH"] == "float32"
    assert kinds["FULLY_CONNECTED"] == "int8"
    reasons = {each.operator: each.reason for each in placed(written.path, model)}
    assert "float only" in reasons["HARD_SWISH"]
