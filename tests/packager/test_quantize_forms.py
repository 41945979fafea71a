"""Int16 activations, dynamic int8, weights of 16 bits, and int8 weights of float operators."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from support.quant_graphs import GRAPHS, TrainedLike, perceptron, residual
from support.recurrent import layer
from trimtab.compress import cast_weights, dequantize, quantize, quantize_dynamic, quantize_int16
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.graph.access import infer_shapes, set_initializer
from trimtab.graph.count import count_model
from trimtab.graph.precision import has_int16_activations, may_round_activations
from trimtab.graph.run import run_graph

QUIET = SimpleNamespace(dataset=None, seed=0, log=lambda _line: None)


def samples_of(model: ir.Model, count: int, seed: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    return (generator.normal(size=(count, *shape)).astype(np.float32),)


def surroundings(model: ir.Model) -> SimpleNamespace:
    data = SimpleNamespace(calibration=lambda count, seed: samples_of(model, count, seed))
    return SimpleNamespace(dataset=data, seed=0, log=lambda _line: None)


def relative_error(model: ir.Model, other: ir.Model) -> float:
    x = samples_of(model, 16, seed=5)
    wanted, got = run_graph(model, x)[0], run_graph(other, x)[0]
    return float(np.linalg.norm(wanted - got) / np.linalg.norm(wanted))


def weight_bytes(model: ir.Model) -> int:
    copy = model.clone()
    infer_shapes(copy)
    return count_model(copy).weight_bytes


@pytest.mark.parametrize("name", GRAPHS)
def test_int16_activations_are_finer_than_uint8(name):
    model = GRAPHS[name]()
    context = surroundings(model)
    fine = quantize_int16.apply(model, quantize_int16.QuantizeInt16(), context)
    coarse = quantize.apply(model, quantize.QuantizeInt8(method="minmax"), context)
    onnx.checker.check_model(ir.to_proto(fine), full_check=True)
    assert has_int16_activations(fine)
    assert relative_error(model, fine) < min(0.03, relative_error(model, coarse))


def test_int16_codes_have_no_zero_point():
    model = residual()
    result = quantize_int16.apply(model, quantize_int16.QuantizeInt16(), surroundings(model))
    for node in result.graph:
        if node.op_type == "QuantizeLinear":
            zero = node.inputs[2].const_value.numpy()
            assert zero.dtype == np.int16
            assert not zero.any()


@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh"])
def test_int16_codes_of_gates_have_the_steps_that_tflite_asks_for(operator):
    b = TrainedLike(8, 12, 12)
    x = b.conv("x", 8, 8)
    gated = b.op("Mul", x, b.op(operator, b.conv(x, 8, 8)))
    model = b.classifier(b.conv_relu(gated, 8, 8), 8)
    result = quantize_int16.apply(model, quantize_int16.QuantizeInt16(), surroundings(model))
    gate = next(node for node in result.graph if node.op_type == operator)
    (rounding,) = (use.node for use in gate.outputs[0].uses())
    assert rounding.inputs[1].const_value.numpy() == 2**-15


def test_int16_keeps_named_layers_float_and_names_itself_in_messages():
    model = residual()
    step = quantize_int16.QuantizeInt16(keep_float=("Conv",))
    result = quantize_int16.apply(model, step, surroundings(model))
    assert all(n.inputs[1].producer() is None for n in result.graph if n.op_type == "Conv")
    with pytest.raises(DataError, match="quantize_int16: calibration needs sample inputs"):
        quantize_int16.apply(model, step, QUIET)


@pytest.mark.parametrize("name", GRAPHS)
def test_dynamic_weights_are_int8_and_carry_the_permission(name):
    model = GRAPHS[name]()
    result = quantize_dynamic.apply(model, quantize_dynamic.QuantizeDynamic(), QUIET)
    decoders = [node for node in result.graph if node.op_type == "DequantizeLinear"]
    assert decoders
    assert all(may_round_activations(node) for node in decoders)
    assert relative_error(model, result) < 0.05


def test_dynamic_takes_only_the_named_layers():
    model = residual()
    step = quantize_dynamic.QuantizeDynamic(layers=("Gemm",))
    result = quantize_dynamic.apply(model, step, QUIET)
    decoders = [node for node in result.graph if node.op_type == "DequantizeLinear"]
    read = {use.node.op_type for node in decoders for use in node.outputs[0].uses()}
    assert read == {"Gemm"}
    with pytest.raises(RecipeError, match="'Cnov' matches no"):
        quantize_dynamic.apply(model, quantize_dynamic.QuantizeDynamic(layers=("Cnov",)), QUIET)


def embedding() -> ir.Model:
    b = TrainedLike(6)
    b.inputs[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    x = b.op("Gather", b.weight(30, 8), "x", axis=0)
    x = b.op("ReduceMean", x, axes=[1], keepdims=0)
    return b.build(b.op("Gemm", x, b.weight(5, 8), b.weight(5), transB=1))


def test_a_table_is_stored_in_int8_without_a_permission():
    result = quantize_dynamic.apply(embedding(), quantize_dynamic.QuantizeDynamic(), QUIET)
    told = {
        next(iter(node.outputs[0].uses())).node.op_type: may_round_activations(node)
        for node in result.graph
        if node.op_type == "DequantizeLinear"
    }
    assert told == {"Gather": False, "Gemm": True}


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_static_int8_stores_recurrent_weights(operator, direction):
    model = layer(operator, 7, direction=direction)
    generator = np.random.default_rng(0)
    shape = [dim if isinstance(dim, int) else 4 for dim in model.graph.inputs[0].shape]
    x = (generator.normal(size=shape).astype(np.float32),)
    result = quantize.store_other_weights(model, quantize.other_weights(model, ()))
    node = next(node for node in result.graph if node.op_type == operator)
    for value in node.inputs[1:3]:
        assert value.producer().inputs[0].dtype == ir.DataType.INT8
    assert quantize.other_weights(model, (operator,)) == []

    def first(graph: ir.Model) -> np.ndarray:
        session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
        return session.run(None, {str(graph.graph.inputs[0].name): x[0]})[0]

    assert np.abs(first(model) - first(result)).max() < 0.03


@pytest.mark.parametrize(("target", "error"), [("float16", 1e-3), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("name", ["residual", "depthwise", "perceptron"])
def test_cast_weights_halve_the_bytes_and_come_back_as_floats(name, target, error):
    model = GRAPHS[name]()
    result = cast_weights.apply(model, cast_weights.CastWeights(format=target), QUIET)
    assert 0 < relative_error(model, result) < error
    assert weight_bytes(result) < 0.6 * weight_bytes(model)
    back = dequantize.apply(result, dequantize.Dequantize(), QUIET)
    assert not any(node.op_type == "Cast" for node in back.graph)
    assert relative_error(result, back) < 1e-6
    assert weight_bytes(back) == weight_bytes(model)


def test_a_weight_beyond_half_precision_is_named():
    model = perceptron()
    weight = model.graph.initializers["c0"]
    set_initializer(weight, weight.const_value.numpy() * np.float32(1e6))
    with pytest.raises(
        ModelError, match=r"weight 'c0' reaches .*, beyond float16; use `format: bfloat16`"
    ):
        cast_weights.apply(model, cast_weights.CastWeights(), QUIET)
    cast_weights.apply(model, cast_weights.CastWeights(format="bfloat16"), QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["float16", "bfloat16"])
def test_the_engine_runs_cast_weights(target):
    from trimtab.engine.module import GraphModule

    model = residual()
    result = cast_weights.apply(model, cast_weights.CastWeights(format=target), QUIET)
    x = samples_of(model, 4, seed=1)
    got = np.asarray(GraphModule(result)(x)[0])
    assert np.allclose(run_graph(result, x)[0], got, atol=1e-4)
