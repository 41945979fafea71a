"""Int8 quantization, judged by what the runtimes make of the graphs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.quant_graphs import GRAPHS, TrainedLike, concat, perceptron, pooling, residual
from trimtab.compress.placement import quantized_groups
from trimtab.compress.quantize import QuantizeInt8, apply
from trimtab.compress.window_rounding import round_windows
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.graph.access import add_initializer, constant, replace_value, set_initializer
from trimtab.graph.run import run_graph

names = pytest.mark.parametrize("name", GRAPHS)


class Calibration:
    """Random samples of the model's input shape."""

    def __init__(self, model: ir.Model) -> None:
        self.shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]

    def calibration(self, count: int, seed: int) -> tuple[np.ndarray, ...]:
        generator = np.random.default_rng(seed)
        return (generator.normal(size=(count, *self.shape)).astype(np.float32),)


def quantized(model: ir.Model, **parameters: object) -> ir.Model:
    context = SimpleNamespace(dataset=Calibration(model), seed=0)
    return apply(model, QuantizeInt8(calibration_samples=64, **parameters), context)


def held_out(model: ir.Model) -> tuple[np.ndarray, ...]:
    return Calibration(model).calibration(32, seed=1)


def fused_operators(model: ir.Model, path) -> Counter[str]:
    """What ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path / "optimized.onnx")
    options.log_severity_level = 3  # a warning that the file suits this machine only
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return Counter(node.op_type for node in onnx.load(path / "optimized.onnx").graph.node)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


@names
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_outputs_stay_close_to_float(name, method):
    model = GRAPHS[name]()
    x = held_out(model)
    result = quantized(model, method=method)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    assert cosine(run_graph(model, x)[0], run_graph(result, x)[0]) > 0.99


@names
def test_onnxruntime_runs_every_kernel_in_int8(name, tmp_path):
    model = GRAPHS[name]()
    float_kernels = Counter(node.op_type for node in model.graph)
    made = fused_operators(quantized(model), tmp_path)
    assert made["QLinearConv"] == float_kernels["Conv"]
    assert made["QGemm"] + made["QLinearMatMul"] == float_kernels["Gemm"] + float_kernels["MatMul"]
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Add", "AveragePool"} & made.keys()
    # Codes go from kernel to kernel. Only a Relu whose scale is shared with negatives stands alone.
    assert made["Relu"] == (1 if name == "concat" else 0)
    assert made["QuantizeLinear"] == 1 + made["Relu"]


OPENVINO = """
import sys, numpy as np, openvino
model, data, result = sys.argv[1:]
x = np.load(data)
compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.save(result, np.concatenate([compiled(x[i:i+1])[0] for i in range(len(x))]))
"""


@names
def test_openvino_agrees_with_onnxruntime(name, tmp_path):
    model = quantized(GRAPHS[name]())
    x = held_out(model)
    ir.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", x[0])
    files = [str(tmp_path / file) for file in ("model.onnx", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", OPENVINO, *files], check=True)
    ours = run_graph(model, x)[0]
    step = np.ptp(ours) / 255
    difference = np.abs(np.load(tmp_path / "y.npy") - ours)
    assert np.median(difference) <= step
    assert difference.max() <= 2.5 * step  # two steps; the range seen is a little less than 255


@names
def test_input_model_is_untouched_and_the_result_deterministic(name):
    model = GRAPHS[name]()
    before = ir.to_proto(model).SerializeToString()
    first, second = quantized(model), quantized(model)
    assert ir.to_proto(model).SerializeToString() == before
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()


@names
def test_interface_stays_float(name):
    model = GRAPHS[name]()
    result = quantized(model)
    for before, after in ((model.graph.inputs, result.graph.inputs),
                          (model.graph.outputs, result.graph.outputs)):  # fmt: skip
        assert [(v.name, v.dtype, v.shape) for v in before] == [
            (v.name, v.dtype, v.shape) for v in after
        ]


def scale_of(model: ir.Model, name: str) -> float:
    pairs = {node.inputs[0].name: node for node in model.graph if node.op_type == "QuantizeLinear"}
    return pairs[name].inputs[1].const_value.numpy().item()


def test_concat_shares_one_scale():
    groups = {frozenset(group) for group in quantized_groups(concat().graph)}
    # v1_0: Relu, v2_0: the other convolution, v3_0: Concat. v0_0, before the Relu, has no pair.
    assert frozenset({"v1_0", "v2_0", "v3_0"}) in groups
    assert not any("v0_0" in group for group in groups)


def test_pooling_and_reshaping_keep_the_scale():
    groups = {frozenset(group) for group in quantized_groups(pooling().graph)}
    assert frozenset({"v1_0", "v2_0"}) in groups
    assert frozenset({"v4_0", "v5_0", "v6_0"}) in groups
    model = quantized(pooling())
    assert scale_of(model, "v1_0") == scale_of(model, "v2_0")


def test_a_value_read_before_its_relu_keeps_its_own_pair():
    b = TrainedLike(3, 8, 8)
    x = b.conv("x", 3, 8)
    model = b.classifier(b.op("Add", b.op("Relu", x), x), 8)
    assert (x,) in quantized_groups(model.graph)


@pytest.mark.parametrize("operator", ["Sigmoid", "Softmax"])
def test_other_operators_stay_float(operator):
    b = TrainedLike(3, 8, 8)
    x = b.op(operator, b.conv("x", 3, 8))
    model = b.build(b.op("Flatten", x))
    assert quantized_groups(model.graph) == (("x",), ("v0_0",))


def test_constants_added_to_an_activation_stay_float():
    b = TrainedLike(4)
    model = b.build(b.op("Add", "x", b.weight(4)))
    assert quantized_groups(model.graph) == ()


def test_weights_are_stored_as_int8_and_biases_as_int32():
    model = quantized(residual())
    kinds = Counter(
        value.dtype for value in model.graph.initializers.values() if value.shape and
        len(value.shape) != 0 and value.const_value.size > 8
    )  # fmt: skip
    assert set(kinds) == {ir.DataType.INT8}
    for node in model.graph:
        if node.op_type == "Conv":
            weights, bias = (value.producer() for value in node.inputs[1:])
            assert weights.inputs[0].dtype == ir.DataType.INT8
            assert weights.inputs[1].shape == [8]
            assert not weights.inputs[2].const_value.numpy().any()
            assert bias.inputs[0].dtype == ir.DataType.INT32


def test_one_scale_for_all_channels_on_request():
    model = quantized(residual(), weights_per_channel=False)
    for node in model.graph:
        if node.op_type == "Conv":
            assert node.inputs[1].producer().inputs[1].shape == []


def test_matrices_have_a_scale_for_each_output():
    model = quantized(perceptron())
    for node in model.graph:
        if node.op_type in {"Gemm", "MatMul"}:
            to_real = node.inputs[1].producer()
            codes, scales = (constant(value) for value in to_real.inputs[:2])
            axis = to_real.attributes["axis"].as_int()
            assert scales.shape == (codes.shape[axis],)
            assert (np.abs(codes).max(axis=1 - axis) >= 126).all()


def test_transposed_convolution_has_scales_along_axis_1():
    b = TrainedLike(3, 8, 8)
    x = b.op("ConvTranspose", "x", b.weight(3, 8, 2, 2), b.weight(8), strides=[2, 2])
    model = b.classifier(x, 8)
    result = quantized(model)
    node = next(node for node in result.graph if node.op_type == "ConvTranspose")
    assert node.inputs[1].producer().attributes["axis"].value == 1
    x = held_out(model)
    assert cosine(run_graph(model, x)[0], run_graph(result, x)[0]) > 0.99


def test_dead_input_gives_a_finite_model():
    model = residual()
    zeros = SimpleNamespace(calibration=lambda count, seed: (np.zeros((4, 3, 12, 12), np.float32),))
    result = apply(model, QuantizeInt8(), SimpleNamespace(dataset=zeros, seed=0))
    assert np.isfinite(run_graph(result, held_out(model))[0]).all()


def test_without_data_the_message_says_how_to_give_it():
    with pytest.raises(DataError, match="give a data file with --data"):
        apply(residual(), QuantizeInt8(), SimpleNamespace(dataset=None, seed=0))


def test_weights_shared_by_two_layers_are_quantized_for_each():
    weights = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        twins (float[N, 4] x) => (float[N, 4] y) {
            once = Gemm (x, w, b)
            y = Gemm (once, w, b)
        }"""
    )
    for name, array in (("w", weights), ("b", weights[0])):
        free = next(value for value in model.graph[0].inputs if value.name == name)
        set_to = add_initializer(model.graph, f"{name}_shared", array)
        replace_value(free, set_to)
    result = quantized(model)
    samples = held_out(model)
    assert cosine(run_graph(result, samples)[0], run_graph(model, samples)[0]) > 0.99


def test_a_quantized_model_is_refused():
    model = quantized(residual())
    with pytest.raises(ModelError, match="quantized already"):
        quantized(model)


def test_a_model_with_nothing_to_quantize_is_refused():
    b = TrainedLike(5)
    with pytest.raises(
        ModelError, match=r"none of the model's operators runs in int8: \['Sigmoid'"
    ):
        quantized(b.build(b.op("Sigmoid", "x")))


def test_an_old_opset_is_refused():
    model = residual()
    model.opset_imports[""] = 12
    with pytest.raises(ModelError, match="opset 12, int8 needs 13"):
        quantized(model)


@pytest.mark.parametrize(
    "source", [{"calibration_samples": 0}, {"calibration_samples": 10**6}, {"method": "hessian"}]
)
def test_parameters_out_of_bounds_are_refused(source):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(source, QuantizeInt8)


def pairs_of(model: ir.Model) -> set[str]:
    return {node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear"}


def test_a_layer_that_stays_float_has_float_weights_and_needs_no_pair_inside_its_island():
    b = TrainedLike(3, 8, 8)
    x = b.conv_relu(b.conv_relu(b.conv_relu(b.conv_relu("x", 3, 8), 8, 8), 8, 8), 8, 8)
    model = b.classifier(x, 8)
    result = quantized(model, keep_float=("c2", "c4"))  # the second and the third convolution
    convolutions = [node for node in result.graph if node.op_type == "Conv"]
    stored = [node.inputs[1].producer() is not None for node in convolutions]
    assert stored == [True, False, False, True]
    # v1_0, the first Relu, feeds the island; v5_0, the last Relu of it, the next convolution.
    assert {"x", "v1_0", "v5_0"} <= pairs_of(result)
    assert not {"v2_0", "v3_0", "v4_0"} & pairs_of(result)
    x = held_out(model)
    assert cosine(run_graph(model, x)[0], run_graph(result, x)[0]) > 0.99


def test_an_island_of_floats_becomes_float_kernels_with_one_pair_on_each_side(tmp_path):
    b = TrainedLike(3, 8, 8)
    x = b.conv_relu(b.conv_relu(b.conv_relu(b.conv_relu("x", 3, 8), 8, 8), 8, 8), 8, 8)
    made = fused_operators(quantized(b.classifier(x, 8), keep_float=("c2", "c4")), tmp_path)
    assert made["QLinearConv"] == 2
    assert made["FusedConv"] + made["Conv"] == 2
    assert made["QuantizeLinear"] == made["DequantizeLinear"] == 2


def test_float_readers_of_a_float_value_are_given_no_rounded_one():
    b = TrainedLike(3, 8, 8)
    x = b.op("Sigmoid", b.conv("x", 3, 8))
    y = b.op("Mul", b.op("Tanh", x), b.op("Softplus", x))
    model = b.classifier(b.op("Tanh", b.op("Add", b.conv(x, 8, 8), y)), 8)
    result = quantized(model, keep_float=("Add",))
    pair = next(n for n in result.graph if n.op_type == "QuantizeLinear" and n.inputs[0].name == x)
    real = next(use.node for use in pair.outputs[0].uses()).outputs[0]
    assert [use.node.op_type for use in real.uses()] == ["Conv"]


def test_additions_between_float_layers_stay_float():
    b = TrainedLike(3, 8, 8)
    x = b.conv_relu("x", 3, 8)
    y = b.op("Add", b.op("Sigmoid", x), b.op("Tanh", x))
    model = b.classifier(b.op("Sigmoid", y), 8)
    assert y not in pairs_of(quantized(model))


@pytest.mark.parametrize(
    ("pattern", "floats"), [("Conv", 4), ("conv_?", 3), ("c0", 1), ("*", None), ("conv_2", 1)]
)
def test_layers_are_named_by_node_weight_or_operator(pattern, floats):
    model = residual()
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    for index, node in enumerate(convolutions):
        node.name = f"conv_{index}"
    if floats is None:
        with pytest.raises(ModelError, match=r"runs in int8 with `keep_float` \['\*'\]"):
            quantized(model, keep_float=(pattern,))
        return
    result = quantized(model, keep_float=(pattern,))
    made = [n for n in result.graph if n.op_type == "Conv" and n.inputs[1].producer() is None]
    assert len(made) == min(floats, len(convolutions))


def test_a_pattern_that_matches_nothing_is_refused_with_near_names():
    with pytest.raises(
        RecipeError,
        match=r"^keep_float: 'Cnov' matches no node, weight or operator of the "
        r"model; near: Conv",
    ):
        quantized(residual(), keep_float=("Conv", "Cnov"))


def test_onnxruntime_leaves_a_float_layer_between_codes_its_weights():
    b = TrainedLike(3, 8, 8)
    x = b.conv_relu(b.conv_relu(b.conv_relu("x", 3, 8), 8, 8, group=8), 8, 8)
    model = b.classifier(x, 8)
    wild = model.graph.initializers["c2"]  # one scale for all of these would leave nothing of most
    spread = np.geomspace(1e-4, 1, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    set_initializer(wild, wild.const_value.numpy() * spread)
    quiet = model.graph.initializers["c4"]
    set_initializer(quiet, quiet.const_value.numpy() / spread.reshape(1, 8, 1, 1))
    x = held_out(model)
    result = quantized(model, keep_float=("c2",))
    buffer = ir.to_proto(result).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(buffer, options)
    told = plain.run(None, {"x": x[0]})[0]
    assert cosine(told, run_graph(result, x)[0]) > 0.9999


def test_corrected_biases_give_every_output_its_mean_again():
    b = TrainedLike(3, 8, 8)
    model = b.build(b.op("Flatten", b.conv("x", 3, 8, kernel=1, strides=[4, 4])))
    set_initializer(model.graph.initializers["c0"], np.round(
        model.graph.initializers["c0"].const_value.numpy(), 2))  # fmt: skip
    samples = Calibration(model).calibration(256, seed=0)[0] + 3
    data = SimpleNamespace(calibration=lambda count, seed: (samples,))

    def mean_error(*, bias_correction: bool) -> float:
        step = QuantizeInt8(bias_correction=bias_correction, method="minmax")
        result = apply(model, step, SimpleNamespace(dataset=data, seed=0))
        error = run_graph(result, (samples,))[0] - run_graph(model, (samples,))[0]
        return float(np.abs(error.mean(axis=0)).max())

    assert mean_error(bias_correction=True) < 0.5 * mean_error(bias_correction=False)


@given(
    st.integers(1, 4), st.integers(1, 3), st.sampled_from([(1, 1), (3, 3), (5,)]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_rounding_by_window_keeps_sums_and_zeros_and_moves_no_weight_by_a_step(
    outputs, inputs, window, seed
):
    steps = np.random.default_rng(seed).uniform(-127, 127, (outputs, inputs, *window))
    steps[0, 0] = 0
    codes = round_windows(steps)
    assert (np.abs(codes - steps) < 1).all()
    axes = tuple(range(2, steps.ndim))
    assert (np.abs((codes - steps).sum(axis=axes)) <= 0.5 + 1e-9).all()
    assert not codes[0, 0].any()
