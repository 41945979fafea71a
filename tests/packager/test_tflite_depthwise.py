"""Depthwise convolutions whose strides TensorFlow's kernel does not take, in an int8 file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.stored_graphs import RNG, Stored, off
from trimtab.graph.run import run_graph
from trimtab.targets.tflite_flatbuffer import operator_name, type_name, unpack
from trimtab.targets.tflite_writer import write
from trimtab.targets.writing import WriteRequest
from trimtab_agent import runtimes

pytestmark = pytest.mark.slow


def test_unequal_strides_run_in_int8(tmp_path):
    b = Stored(4, 9, 8)
    scale, zero = b.constant(np.float32(0.03)), b.constant(np.uint8(128))

    def rounded(value: ir.Value) -> ir.Value:
        codes = b.op("QuantizeLinear", value, scale, zero)
        codes.type = ir.TensorType(ir.DataType.UINT8)
        return b.op("DequantizeLinear", codes, scale, zero, shape=value.shape)

    codes = b.constant(RNG.integers(-127, 128, (4, 1, 3, 3)).astype(np.int8))
    steps = b.constant(RNG.uniform(2e-3, 4e-3, 4).astype(np.float32))
    weight = b.op("DequantizeLinear", codes, steps, axis=0, shape=[4, 1, 3, 3])
    attributes = {"group": 4, "strides": [2, 1], "pads": [1, 1, 1, 1]}
    layer = b.op("Conv", rounded(b.x), weight, shape=["batch", 4, 5, 8], **attributes)
    model = b.build(rounded(layer))
    samples = RNG.normal(size=(8, 4, 9, 8)).astype(np.float32)
    written = write(model, tmp_path, WriteRequest())
    (actual,) = runtimes.run_samples(runtimes.load("tflite", written.path), [samples])
    assert off(actual, run_graph(model, [samples])[0]) < 0.02
    file = unpack(written.path.read_bytes())
    (graph,) = file.subgraphs
    kinds = {operator_name(file, each): each for each in graph.operators}
    assert "STRIDED_SLICE" not in kinds
    assert type_name(graph.tensors[kinds["CONV_2D"].inputs[0]]) == "int8"
