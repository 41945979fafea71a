"""What a quantized graph joins in float stays float in its TFLite file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.stored_graphs import RNG, Stored, off
from trimtab.engine.float_joins import mark_float_joins
from trimtab.graph.run import run_graph
from trimtab.targets.tflite_flatbuffer import operator_name, unpack
from trimtab.targets.tflite_writer import write
from trimtab.targets.writing import WriteRequest
from trimtab_agent import runtimes


def rounded(b: Stored, value: ir.Value, step: float) -> ir.Value:
    operands = b.constant(np.float32(step)), b.constant(np.uint8(128))
    codes = b.op("QuantizeLinear", value, *operands)
    codes.type = ir.TensorType(ir.DataType.UINT8)
    return b.op("DequantizeLinear", codes, *operands, shape=value.shape)


def boxes_and_scores() -> ir.Model:
    """One product, of which half is scaled to pixels and half becomes a share."""
    b = Stored(6, 8)
    data = rounded(b, b.op("MatMul", rounded(b, b.x, 0.03), b.weight(8, 8)), 0.05)
    data.shape = ir.Shape(["batch", 6, 8])
    ends = (np.array([4]), np.array([8]), np.array([2]))
    boxes = b.op("Slice", data, *map(b.constant, (np.array([0]), *ends[::2])), shape=[None, 6, 4])
    scores = b.op("Slice", data, *map(b.constant, ends), shape=[None, 6, 4])
    boxes = b.op("Mul", boxes, b.constant(np.float32(16)), shape=[None, 6, 4])
    joined = b.op("Concat", boxes, b.op("Sigmoid", scores, shape=[None, 6, 4]), axis=2)
    return b.build(joined)


def one_hot_product() -> ir.Model:
    """A product with rows of a unit matrix, which are rounded first."""
    b = Stored(5, 1, dtype=ir.DataType.INT32)
    equal = b.op("Equal", b.x, b.constant(np.arange(9, dtype=np.int32)), shape=["batch", 5, 9])
    equal.type = ir.TensorType(ir.DataType.BOOL)
    rows = b.op("Cast", equal, to=ir.DataType.FLOAT.value, shape=["batch", 5, 9])
    step, zero = b.constant(np.float32(1 / 255)), b.constant(np.uint8(0))
    codes = b.op("QuantizeLinear", rows, step, zero)
    codes.type = ir.TensorType(ir.DataType.UINT8)
    real = b.op("DequantizeLinear", codes, step, zero, shape=["batch", 5, 9])
    return b.build(rounded(b, b.op("MatMul", real, b.weight(9, 4)), 0.01))


def marks(model: ir.Model) -> int:
    return sum(node.op_type == "Mod" for node in mark_float_joins(model).graph)


def test_each_value_of_a_float_join_is_marked():
    assert marks(boxes_and_scores()) == 2
    assert marks(one_hot_product()) == 1


def test_a_join_that_is_rounded_is_not_marked():
    b = Stored(4)
    assert marks(b.build(rounded(b, b.op("Concat", b.x, b.x, axis=1), 0.1))) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("build", "limit"), [(boxes_and_scores, 0.02), (one_hot_product, 0.02)])
def test_the_file_does_what_the_graph_does(build, limit, tmp_path):
    model = build()
    shape = (8, *model.graph.inputs[0].shape[1:])
    if model.graph.inputs[0].dtype == ir.DataType.INT32:
        samples = RNG.integers(0, 9, shape).astype(np.int32)
    else:
        samples = RNG.normal(size=shape).astype(np.float32)
    written = write(model, tmp_path, WriteRequest())
    (actual,) = runtimes.run_samples(runtimes.load("tflite", written.path), [samples])
    assert off(actual, run_graph(model, [samples])[0]) < limit
    file = unpack(written.path.read_bytes())
    names = {operator_name(file, operator) for operator in file.subgraphs[0].operators}
    assert "FLOOR_MOD" not in names
