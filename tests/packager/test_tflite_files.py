"""TFLite files of whole graphs: what they hold is what the graph holds, in its own numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import CLASSES
from support.graphs import GRAPHS as FLOAT_GRAPHS
from support.graphs import GraphBuilder as FloatGraphBuilder
from support.quant_graphs import GRAPHS, TrainedLike
from support.tflite_small import run
from trimtab.compress import quantize_dynamic, quantize_int16, quantize_weights
from trimtab.compress.quantize import QuantizeInt8, apply
from trimtab.compress.quantize_weights import QuantizeWeights
from trimtab.graph.access import constant
from trimtab.graph.clean import clean
from trimtab.graph.precision import ACTIVATIONS_KEY
from trimtab.graph.run import run_graph
from trimtab.targets.tflite_flatbuffer import constants, contents, type_name, unpack
from trimtab.targets.tflite_placed import placed
from trimtab.targets.tflite_writer import write
from trimtab.targets.writing import WriteRequest, Written

pytestmark = pytest.mark.slow


class Context:
    """Random samples of the model's input shape, and nobody who reads the log."""

    def __init__(self, model: ir.Model) -> None:
        self.shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
        self.dataset, self.seed = self, 0

    def calibration(self, count: int, seed: int) -> tuple[np.ndarray, ...]:
        generator = np.random.default_rng(seed)
        return (generator.normal(size=(count, *self.shape)).astype(np.float32),)

    def log(self, message: str) -> None:
        """Takes no note."""


def compared(model: ir.Model, written: Written, context: Context) -> float:
    """The largest difference, as a share of the graph's largest output."""
    (samples,) = context.calibration(8, 1)
    expected = run_graph(model, [samples])[0]
    actual = run(written.path.read_bytes(), samples)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def stored_int8(written: Written) -> Counter[bytes]:
    """The int8 constants of a file, as sorted numbers: layouts differ."""
    file = unpack(written.path.read_bytes())
    return Counter(
        np.sort(contents(file, tensor, np.int8).reshape(-1)).tobytes()
        for graph in file.subgraphs
        for _, tensor in constants(file, graph)
        if type_name(tensor) == "int8"
    )


def codes_of(model: ir.Model) -> Counter[bytes]:
    arrays = [constant(value) for value in model.graph.initializers.values() if value.uses()]
    return Counter(
        np.sort(array.reshape(-1)).tobytes()
        for array in arrays
        if array.dtype == np.int8 and array.any()
    )


@pytest.mark.parametrize("name", ["residual", "perceptron", "depthwise"])
def test_int8_file_holds_the_codes_of_the_graph(name, tmp_path):
    model = clean(GRAPHS[name]())
    context = Context(model)
    quantized = apply(model, QuantizeInt8(calibration_samples=64), context)
    written = write(quantized, tmp_path, WriteRequest())
    assert stored_int8(written) == codes_of(quantized)
    assert compared(quantized, written, context) < 0.005  # a code, where a half is rounded
    operators = placed(written.path, quantized)
    assert {operator.dtype for operator in operators} - {"float32"} == {"int8"}
    floats = {operator.operator for operator in operators if operator.dtype == "float32"}
    assert floats <= {"DEQUANTIZE"}


def test_final_softmax_reads_the_dequantized_logits(tmp_path):
    """In int8 its probabilities would be in steps of 1/256."""
    model = clean(GRAPHS["one_dimensional"]())
    context = Context(model)
    quantized = apply(model, QuantizeInt8(calibration_samples=64), context)
    written = write(quantized, tmp_path, WriteRequest())
    *_, before, last = placed(written.path, quantized)
    assert (before.operator, before.dtype) == ("DEQUANTIZE", "int8")
    assert (last.operator, last.dtype) == ("SOFTMAX", "float32")
    assert "probabilities" in str(last.reason)
    assert compared(quantized, written, context) < 1e-4


def with_int16(model: ir.Model) -> ir.Model:
    """Makes 16 bits of the pairs of 8, around zero, and floats of biases."""
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            scale, zero = node.inputs[1], node.inputs[2]
            if constant(zero).dtype == np.uint8:
                step, point = float(constant(scale)), int(constant(zero))
                widest = step * max(point, 255 - point)
                scale.const_value = ir.tensor(np.float32(widest / 32767), name=scale.name)
                zero.const_value = ir.tensor(np.int16(0), name=zero.name)
            node.outputs[0].type = ir.TensorType(ir.DataType.INT16)
    for value in model.graph.initializers.values():
        if constant(value).dtype == np.int16:
            value.type = ir.TensorType(ir.DataType.INT16)
    model.opset_imports[""] = 21
    return model


@pytest.mark.parametrize("name", ["residual", "depthwise", "concat"])
def test_int16_file_computes_what_the_graph_does(name, tmp_path):
    model = clean(GRAPHS[name]())
    context = Context(model)
    quantized = with_int16(apply(model, QuantizeInt8(calibration_samples=64), context))
    written = write(quantized, tmp_path, WriteRequest())
    assert {operator.dtype for operator in placed(written.path, quantized)} <= {"int16", "float32"}
    assert compared(quantized, written, context) < 1e-3


def gated_and_joined() -> ir.Model:
    b = TrainedLike(3, 12, 12)
    x = b.conv_relu("x", 3, 8)
    gated = b.op("Mul", x, b.op("Sigmoid", b.conv(x, 8, 8)))
    joined = b.op("Concat", gated, b.conv(x, 8, 8), axis=1)
    return b.classifier(b.conv_relu(joined, 16, 8), 8)


def test_int16_gates_and_joins_have_a_form_that_kernels_take(tmp_path):
    model = clean(gated_and_joined())
    context = Context(model)
    quantized = quantize_int16.apply(model, quantize_int16.QuantizeInt16(), context)
    written = write(quantized, tmp_path, WriteRequest())
    assert compared(quantized, written, context) < 1e-3


def listener() -> ir.Model:
    b = TrainedLike(12, 8)
    x = b.op("Transpose", "x", perm=[1, 0, 2])
    gates = [b.weight(2, 18, size) for size in (8, 6)]
    attributes = {"hidden_size": 6, "direction": "bidirectional", "linear_before_reset": 1}
    b.op("GRU", x, *gates, b.weight(2, 36), outputs=2, **attributes)
    last = b.op("Transpose", b.nodes[-1].output[1], perm=[1, 0, 2])
    return b.build(b.dense(b.op("Reshape", last, b.constant([-1, 12])), 12, 5))


@pytest.mark.parametrize("make", [listener, FLOAT_GRAPHS["mobile"]])
@pytest.mark.parametrize("dynamic", [False, True])
def test_weights_alone_are_stored_in_int8_once(make, dynamic, tmp_path):
    model = clean(make())
    context = Context(model)
    context.dataset = None  # 8 bits need no data
    float_bytes = write(model, tmp_path, WriteRequest()).weight_bytes
    quantized = quantize_weights.apply(model, QuantizeWeights(bits=8), context)
    for node in quantized.graph:
        if dynamic and node.op_type == "DequantizeLinear":
            node.metadata_props[ACTIVATIONS_KEY] = "dynamic"
    written = write(quantized, tmp_path, WriteRequest())
    codes = sum(
        value.const_value.nbytes
        for value in quantized.graph.initializers.values()
        if constant(value).dtype == np.int8 and constant(value).any()
    )
    assert sum(len(numbers) for numbers in stored_int8(written)) == codes
    assert written.weight_bytes < float_bytes - 2.5 * codes
    assert compared(quantized, written, context) < (0.03 if dynamic else 1e-6)


def test_recurrent_steps_stay_between_few_conversions(tmp_path):
    """Gates that are cut behind their sigmoid were rounded to int8 and back in every step."""
    model = clean(listener())
    context = Context(model)
    quantized = apply(model, QuantizeInt8(calibration_samples=64), context)
    operators = placed(write(quantized, tmp_path, WriteRequest()).path, quantized)
    counts = Counter(operator.operator for operator in operators)
    assert counts["QUANTIZE"] <= 4
    assert counts["STRIDED_SLICE"] == 0
    floats = [operator for operator in operators if operator.operator == "SPLIT"]
    assert floats
    assert all(operator.reason for operator in floats)


def test_norm_leaves_the_weights_behind_it_as_the_graph_stores_them(tmp_path):
    """The converter works a factor before a product into its weights, if it finds one."""
    b = FloatGraphBuilder(6, 16)
    normed = b.op("LayerNormalization", "x", b.positive(16), b.weight(16), axis=-1)
    split = [b.op("MatMul", normed, b.weight(16, 16)) for _ in range(2)]
    mixed = b.op("Mul", *split)
    pooled = b.op("ReduceMean", mixed, axes=[1], keepdims=0)
    model = clean(b.build(b.dense(pooled, 16, CLASSES)))
    quantized = quantize_dynamic.apply(model, quantize_dynamic.QuantizeDynamic(), Context(model))
    written = write(quantized, tmp_path, WriteRequest())
    assert stored_int8(written) == codes_of(quantized)
    kinds = [(each.operator, each.dtype) for each in placed(written.path, quantized)]
    assert kinds.count(("FULLY_CONNECTED", "int8")) == 3
