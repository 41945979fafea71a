"""Graphs as TFLite files: they compute the same, without transposes, and in int8 where told to."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from support.graphs import GRAPHS as FLOAT_GRAPHS
from support.graphs import GraphBuilder
from support.quant_graphs import GRAPHS, TrainedLike
from trimtab.compress.quantize import QuantizeInt8, apply
from trimtab.engine.expand import EXPANSIONS
from trimtab.errors import ExportError, UnsupportedOperatorError
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph
from trimtab.targets.gate import compare

pytestmark = pytest.mark.slow

FLOAT = [
    *("plain", "residual", "mobile", "dense_blocks", "flattened", "flattened_first", "grouped"),
    *("shuffled", "time_series", "time_series_wrapped", "perceptron", "squeeze_excitation"),
    *("spatial_attention", "padded_channels", "shared_weight"),
]


def stem() -> ir.Model:
    """A ResNet's first layers: a padded maximum behind a strided convolution."""
    b = TrainedLike(3, 16, 16)
    x = b.op("Conv", "x", b.weight(8, 3, 3, 3), b.weight(8), strides=[2, 2], pads=[1, 1, 1, 1])
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    return b.classifier(b.conv_relu(b.op("MaxPool", x, **pool), 8, 8), 8)


QUANTIZED = {**GRAPHS, "stem": stem}


class Samples:
    """Stands for a data set: random samples of the model's input shape."""

    def __init__(self, model: ir.Model) -> None:
        self.shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
        self.dataset, self.seed = self, 0

    def calibration(self, count: int, seed: int) -> tuple[np.ndarray, ...]:
        generator = np.random.default_rng(seed)
        return (generator.normal(size=(count, *self.shape)).astype(np.float32),)


class TFLite:
    """A file in the interpreter that devices have."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_content=content)
        self.interpreter.allocate_tensors()

    def operators(self) -> Counter[str]:
        """Without the delegate that takes the operators' place in the running graph."""
        names = (operator["op_name"] for operator in self.interpreter._get_ops_details())
        return Counter(name for name in names if name != "DELEGATE")

    def run(self, samples: np.ndarray) -> np.ndarray:
        entry = self.interpreter.get_input_details()[0]["index"]
        leave = self.interpreter.get_output_details()[0]["index"]
        outputs = []
        for sample in samples:
            self.interpreter.set_tensor(entry, sample[None])
            self.interpreter.invoke()
            outputs.append(self.interpreter.get_tensor(leave)[0])
        return np.stack(outputs)

    def float_operators(self) -> set[str]:
        """Names of the operators that read or write floats."""
        types = {t["index"]: t["dtype"] for t in self.interpreter.get_tensor_details()}
        return {
            operator["op_name"]
            for operator in self.interpreter._get_ops_details()
            if any(types.get(i) is np.float32 for i in (*operator["inputs"], *operator["outputs"]))
        }


def lowered(model: ir.Model) -> TFLite:
    from trimtab.engine.lower import to_tflite

    return TFLite(to_tflite(model))


@pytest.mark.parametrize("name", FLOAT)
def test_float_file_computes_what_the_graph_does(name):
    model = clean(FLOAT_GRAPHS[name]())
    (data,) = Samples(model).calibration(4, 1)
    expected = run_graph(model, [data])[0]
    np.testing.assert_allclose(
        lowered(model).run(data), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("name", QUANTIZED)
def test_int8_file_computes_what_the_graph_does_with_integer_kernels(name):
    model = clean(QUANTIZED[name]())
    samples = Samples(model)
    quantized = apply(model, QuantizeInt8(calibration_samples=64), samples)
    file = lowered(quantized)
    # Softmax stays float on purpose: a final one reads the dequantized logits.
    assert file.float_operators() <= {"QUANTIZE", "DEQUANTIZE", "SOFTMAX", "DELEGATE"}
    (data,) = samples.calibration(32, 1)
    result = compare(file.run(data), run_graph(quantized, [data])[0])
    assert result.relative_error < 0.1
    assert result.cosine > 0.99


def listener() -> ir.Model:
    """A convolution in front of a GRU, which stays float: int8 values meet its float weights."""
    b = TrainedLike(4, 16)
    x = b.op("Transpose", b.conv_relu("x", 4, 8, rank=1), perm=[2, 0, 1])
    gates = [b.weight(1, 18, size) for size in (8, 6)]
    b.op("GRU", x, *gates, b.weight(1, 36), outputs=2, hidden_size=6, linear_before_reset=1)
    last = b.op("Squeeze", b.nodes[-1].output[1], b.constant([0]))
    return b.build(b.dense(last, 6, 5))


def test_int8_meets_a_recurrent_layer():
    model = clean(listener())
    samples = Samples(model)
    quantized = apply(model, QuantizeInt8(calibration_samples=64), samples)
    (data,) = samples.calibration(16, 1)
    result = compare(lowered(quantized).run(data), run_graph(quantized, [data])[0])
    assert result.relative_error < 0.1


def pictures_from_keras() -> ir.Model:
    """Channels last at the input and where the map is flattened."""
    b = TrainedLike(8, 8, 3)
    x = b.conv_relu(b.op("Transpose", "x", perm=[0, 3, 1, 2]), 3, 8)
    x = b.op("Reshape", b.op("Transpose", x, perm=[0, 2, 3, 1]), b.constant([-1, 512]))
    return b.build(b.dense(x, 512, 5))


@pytest.mark.parametrize("make", [pictures_from_keras, FLOAT_GRAPHS["time_series"]])
def test_graph_with_the_transposes_of_a_keras_export_has_none_in_the_file(make):
    assert "TRANSPOSE" not in lowered(clean(make())).operators()


def attention_from_torch() -> ir.Model:
    """An encoder layer of two heads whose reshapes ask the data for its batch and length."""
    b = GraphBuilder(6, 8)
    shape = b.op("Shape", "x")
    batch, time = (
        b.op("Unsqueeze", b.op("Gather", shape, b.constant(axis), axis=0), b.constant([0]))
        for axis in (0, 1)
    )
    heads = b.op("Concat", batch, time, b.constant([2]), b.constant([4]), axis=0)
    x = b.op("MatMul", "x", b.weight(8, 24))
    query, key, value = (
        b.op("Transpose", b.op("Reshape", part, heads), perm=perm)
        for part, perm in zip(
            b.ops("Split", x, b.constant([8, 8, 8]), outputs=3, axis=-1),
            ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]),
            strict=True,
        )
    )
    x = b.op("MatMul", b.op("Softmax", b.op("MatMul", query, key), axis=-1), value)
    x = b.op("Transpose", x, perm=[0, 2, 1, 3])
    x = b.op("Reshape", x, b.op("Concat", batch, time, b.constant([8]), axis=0))
    x = b.op("LayerNormalization", b.op("Add", x, "x"), b.weight(8), b.weight(8))
    x = b.op("Reshape", x, b.op("Concat", batch, b.constant([6, -1]), axis=0))
    zeros = b.op("ConstantOfShape", b.op("Concat", batch, b.constant([6, 5]), axis=0))
    x = b.op("Add", b.op("Conv", x, b.weight(6, 6, 4)), zeros)
    return b.build(b.dense(b.op("ReduceMean", x, axes=[2], keepdims=0), 6, 5))


def test_shapes_computed_from_a_free_batch_stay_known():
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    model = attention_from_torch()
    (data,) = Samples(model).calibration(4, 1)
    expected = run_graph(model, [data])[0]
    module = GraphModule(model, trainable=True)
    specs = [tf.TensorSpec((None, 6, 8))]
    function = tf.function(lambda x: module([x]), input_signature=specs, autograph=False)
    np.testing.assert_allclose(function(data)[0], expected, atol=1e-6)
    file = lowered(model)
    assert not {"SHAPE", "GATHER", "PACK"} & set(file.operators())
    np.testing.assert_allclose(file.run(data), expected, atol=1e-6)


def test_resize_to_the_size_of_another_value_trains_with_a_free_batch():
    """As PyTorch writes `interpolate(x, size=y.shape[2:])`."""
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    b = GraphBuilder(2, 6, 6)
    low = b.op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2])
    kept = b.op("Slice", b.op("Shape", low), b.constant([0]), b.constant([2]), b.constant([0]))
    size = b.op("Slice", b.op("Shape", "x"), b.constant([2]), b.constant([4]), b.constant([0]))
    sizes = b.op("Concat", kept, b.op("Cast", size, to=TensorProto.INT64), axis=0)
    high = b.op("Add", b.op("Resize", low, "", "", sizes, mode="linear"), "x")
    model = b.build(b.op("Flatten", high))
    (data,) = Samples(model).calibration(4, 1)
    module = GraphModule(model, trainable=True)
    specs = [tf.TensorSpec((None, 2, 6, 6))]
    function = tf.function(lambda x: module([x]), input_signature=specs, autograph=False)
    np.testing.assert_allclose(function(data)[0], run_graph(model, [data])[0], atol=1e-6)


def test_free_size_of_another_value_is_refused():
    from trimtab.engine.module import GraphModule

    b = GraphBuilder(2, 6, 6)
    low = b.op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2])
    model = b.build(b.op("Resize", low, "", "", b.op("Shape", "x"), mode="linear"))
    model.graph.inputs[0].shape = ir.Shape(["batch", 2, "height", 6])
    with pytest.raises(UnsupportedOperatorError, match="Resize of axis 2, of free size, to a size"):
        GraphModule(model, trainable=True)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_free_sizes_are_doubled(mode):
    """As in the neck of a detector that takes pictures of any size."""
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    b = GraphBuilder(2, 6, 6)
    scales = b.constant([1, 1, 2, 2], np.float32)
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    doubled = b.op("Resize", b.conv_relu("x", 2, 3), "", scales, mode=mode, **options)
    model = b.build(doubled)
    model.graph.inputs[0].shape = ir.Shape(["batch", 2, "height", "width"])
    model.graph.outputs[0].shape = ir.Shape(["batch", 3, "tall", "wide"])
    data = np.random.default_rng(0).normal(size=(2, 2, 5, 7)).astype(np.float32)
    module = GraphModule(model, trainable=True)
    specs = [tf.TensorSpec((None, 2, None, None))]
    function = tf.function(lambda x: module([x]), input_signature=specs, autograph=False)
    np.testing.assert_allclose(function(data)[0], run_graph(model, [data])[0], atol=1e-5)


def gelu(pieces: str) -> ir.Model:
    """GELU as PyTorch and tf2onnx export it, between two layers."""
    b = GraphBuilder(5)

    def number(value: float) -> str:
        return b.constant(value, np.float32)

    x = b.dense("x", 5, 5)
    if "negated" in pieces:
        inner = b.op("Mul", b.op("Neg", x), number(-(0.5**0.5)))
    elif "div" in pieces:
        inner = b.op("Div", x, number(2**0.5))
    else:
        inner = b.op("Mul", number(0.5**0.5), x)
    shifted = b.op("Add", b.op("Erf", inner), number(1.0))
    if "half last" in pieces:
        x = b.op("Mul", b.op("Mul", x, shifted), number(0.5))
    elif "half inside" in pieces:
        x = b.op("Mul", x, b.op("Mul", shifted, number(0.5)))
    else:
        x = b.op("Mul", b.op("Mul", number(0.5), x), shifted)
    return b.build(b.dense(x, 5, 5))


@pytest.mark.parametrize(
    "pieces", ["div, half last", "div, half inside", "half last", "half first", "negated"]
)
def test_gelu_in_pieces_is_one_kernel(pieces):
    model = gelu(pieces)
    file = lowered(model)
    assert file.operators()["GELU"] == 1
    (data,) = Samples(model).calibration(4, 1)
    np.testing.assert_allclose(file.run(data), run_graph(model, [data])[0], atol=1e-6)


def test_operator_without_a_kernel_is_named():
    b = GraphBuilder(5)
    with pytest.raises(ExportError, match=r"TFLite has no kernel for Asin$"):
        lowered(b.build(b.op("Asin", b.dense("x", 5, 5))))


@pytest.mark.parametrize("operator", EXPANSIONS)
def test_operator_without_a_kernel_is_made_of_those_that_have_one(operator):
    b = GraphBuilder(5)
    x = b.op("Mul", "x", b.constant(0.2, np.float32))
    x = b.op("Add", x, b.constant(2.0, np.float32)) if operator == "Acosh" else x
    model = b.build(b.op(operator, x))
    (data,) = Samples(model).calibration(64, 1)
    expected = run_graph(model, [data])[0]
    np.testing.assert_allclose(lowered(model).run(data), expected, atol=1e-6, rtol=1e-5)


def several_ports() -> ir.Model:
    """Inputs and outputs of different shapes, with names that TensorFlow changes."""
    names, sizes = ("tab:0", "a/image", "2", "z"), (5, 7, 3, 4)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in zip(names, sizes, strict=True)
    ]
    results = [f"{name}/out:1" for name in names]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in zip(results, sizes, strict=True)
    ]
    nodes = [helper.make_node("Tanh", [n], [r]) for n, r in zip(names, results, strict=True)]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    opset = helper.make_opsetid("", 17)
    return ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=8))


def test_inputs_and_outputs_keep_their_order_and_results_their_names():
    model = several_ports()
    interpreter = lowered(model).interpreter
    assert [d["shape"][1] for d in interpreter.get_input_details()] == [5, 7, 3, 4]
    assert [d["shape"][1] for d in interpreter.get_output_details()] == [5, 7, 3, 4]
    data = [np.full((1, size), size / 10, np.float32) for size in (5, 7, 3, 4)]
    runner = interpreter.get_signature_runner()
    results = runner(**dict(zip(("tab_0", "a_image", "input", "z"), data, strict=True)))
    for value, array in zip(model.graph.outputs, data, strict=True):
        np.testing.assert_allclose(results[value.name], np.tanh(array), atol=1e-6)


def test_size_is_scaled_in_single_precision():
    """12 times 0.8333333 is 10 there, as in ONNX Runtime."""
    b = GraphBuilder(2, 12, 12)
    scales = b.constant([1, 1, 10 / 12, 10 / 12], np.float32)
    model = b.build(b.op("Flatten", b.op("Resize", "x", "", scales, mode="linear")))
    (data,) = Samples(model).calibration(2, 1)
    expected = run_graph(model, [data])[0]
    assert expected.shape == (2, 200)
    np.testing.assert_allclose(lowered(model).run(data), expected, atol=1e-5)


def test_operators_that_the_engine_lacks_are_named_all_at_once():
    model = FLOAT_GRAPHS["plain"]()
    first, second = list(model.graph)[:2]
    first.op_type, second.op_type = "Det", "If"
    with pytest.raises(UnsupportedOperatorError, match=r"Det \(1x\), If \(1x\)"):
        lowered(model)


def test_free_size_besides_the_batch_is_refused():
    model = clean(FLOAT_GRAPHS["plain"]())
    model.graph.inputs[0].shape = ir.Shape(["batch", 3, "height", 8])
    with pytest.raises(
        ExportError, match=r"input 'x' has free dimensions besides the batch, \[2\]"
    ):
        lowered(model)
