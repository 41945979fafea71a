"""Gradients of the engine against finite differences of ONNX Runtime's outputs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.onnx_cases import engine_outputs, runtime_outputs
from support.recurrent import layer, samples
from trimtab.engine.operators.steps import UNROLLED_STEPS
from trimtab.graph.access import constant

pytestmark = pytest.mark.slow


def one_layer(operator: str, data: np.ndarray, *weights: np.ndarray, **attributes) -> ir.Model:
    names = [f"w{index}" for index in range(len(weights))]
    order = attributes.pop("order", ["x", *names])
    kind = helper.np_dtype_to_tensor_dtype(data.dtype)
    graph = helper.make_graph(
        [helper.make_node(operator, order, ["out"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", kind, data.shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, name) for w, name in zip(weights, names, strict=True)],
    )
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def normalized(operator: str, *shape: int, scale: int, **attributes):
    data = noise(*shape)
    return one_layer(operator, data, 1 + noise(scale), noise(scale), **attributes), [data]


def embedding():
    rows = np.asarray([[0, 3, 3], [-1, 1, 0]])
    return one_layer("Gather", rows, noise(6, 4), order=["w0", "x"]), [rows]


def recurrent(operator: str, steps: int, **options):
    model = layer(operator, steps, **options)
    return model, samples(model, steps, 2)


CASES = {
    "LSTM": lambda: recurrent("LSTM", 5, direction="bidirectional"),
    "LSTM, in a loop": lambda: recurrent("LSTM", UNROLLED_STEPS + 1),
    "GRU": lambda: recurrent("GRU", 5, direction="reverse", linear_before_reset=1),
    "RNN, of several lengths": lambda: recurrent("RNN", 5, lengths=[3, 5]),
    "LayerNormalization": lambda: normalized("LayerNormalization", 2, 3, 8, scale=8),
    "InstanceNormalization": lambda: normalized("InstanceNormalization", 2, 3, 4, 4, scale=3),
    "GroupNormalization": lambda: normalized(
        "GroupNormalization", 2, 4, 4, 4, scale=4, num_groups=2
    ),
    "Gather, as an embedding": embedding,
    "ConvTranspose, in groups": lambda: (
        one_layer(
            "ConvTranspose", noise(2, 4, 5, 5), noise(4, 3, 3, 3), noise(6), group=2,
            strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1],
        ),
        [noise(2, 4, 5, 5)],
    ),
}  # fmt: skip


def loss(model: ir.Model, data: list[np.ndarray], weigh: list[np.ndarray]) -> float:
    outputs = runtime_outputs(model, data)
    return sum(float((o.astype(float) * w).sum()) for o, w in zip(outputs, weigh, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_gradient_of_every_weight_is_the_slope_of_the_output(name):
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    model, data = CASES[name]()
    module = GraphModule(model, trainable=True)
    with tf.GradientTape() as tape:
        outputs = module([tf.constant(array) for array in data])
        generator = np.random.default_rng(3)
        weigh = [generator.normal(size=output.shape) for output in outputs]
        total = sum(
            tf.reduce_sum(output * w.astype(np.float32))
            for output, w in zip(outputs, weigh, strict=True)
        )
    variables = module.variables
    trained = {name for name, value in model.graph.initializers.items() if is_float(value)}
    assert len(variables) == len(trained)
    gradients = tape.gradient(total, [variable.value for variable in variables])
    # One direction in the space of all weights, in which the slope is large: the gradient's own.
    length = np.sqrt(sum(float(tf.reduce_sum(tf.square(g))) for g in map(dense, gradients)))
    slopes, step = [], 1e-2
    start = [np.asarray(variable.numpy()) for variable in variables]
    for sign in (1, -1):
        for variable, array, gradient in zip(variables, start, gradients, strict=True):
            variable.assign(array + sign * step * dense(gradient) / length)
        module.store()
        slopes.append(loss(model, data, weigh))
    assert (slopes[0] - slopes[1]) / (2 * step) == pytest.approx(length, rel=2e-2)


def is_float(value: ir.Value) -> bool:
    return constant(value).dtype == np.float32


def dense(gradient):
    import tensorflow as tf

    return tf.convert_to_tensor(gradient)  # an embedding's comes as indexed slices


def pair(kind: str, *, scale, zero_point, shape, **attributes) -> ir.Model:
    """A weight through a QuantizeLinear and a DequantizeLinear, times the input."""
    weight = np.linspace(-2, 2, int(np.prod(shape))).astype(np.float32).reshape(shape)
    scale, zero_point = np.asarray(scale, np.float32), np.asarray(zero_point)
    element = getattr(TensorProto, kind)
    integers = helper.make_tensor(
        "z", element, zero_point.shape, zero_point.reshape(-1).astype(int).tolist()
    )
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], **attributes),
        helper.make_node("Mul", ["x", "d"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(scale, "s"), integers],
    )
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )


PAIRS = {
    "int8": pair("INT8", scale=0.01, zero_point=0, shape=(4, 6)),
    "uint8": pair("UINT8", scale=0.01, zero_point=128, shape=(4, 6)),
    "int16": pair("INT16", scale=0.00005, zero_point=0, shape=(4, 6)),
    "int8, per channel": pair(
        "INT8", scale=[0.01, 0.02, 0.005, 0.004], zero_point=[0] * 4, shape=(4, 6), axis=0
    ),
    "int4": pair("INT4", scale=0.19, zero_point=0, shape=(4, 6)),
    "uint4": pair("UINT4", scale=0.19, zero_point=8, shape=(4, 6)),
    "int4, in blocks": pair(
        "INT4",
        scale=[[0.19, 0.11]] * 4,
        zero_point=[[0, 0]] * 4,
        shape=(4, 6),
        axis=1,
        block_size=3,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pair_rounds_forward_and_passes_gradients_within_its_range(name):
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    model = PAIRS[name].clone()
    module = GraphModule(model, trainable=True)
    ones = np.ones((4, 6), np.float32)
    with tf.GradientTape() as tape:
        (output,) = module([tf.constant(ones)])
    (expected,) = runtime_outputs(model, [ones])
    np.testing.assert_allclose(output, expected, atol=1e-6)
    (variable,) = module.variables
    gradient = tape.gradient(output, [variable.value])[0]
    within = in_range(model)
    assert 0 < within.sum() < within.size
    np.testing.assert_array_equal(gradient.numpy(), within)


def in_range(model: ir.Model) -> np.ndarray:
    """Which weights lie between the lowest and the highest number of their grid."""
    weight, scale, zero = (constant(model.graph.initializers[name]) for name in "wsz")
    limits = ml_dtypes.iinfo(zero.dtype)
    scale, zero = scale.astype(np.float32), zero.astype(np.float32)
    if scale.ndim == 1:
        scale, zero = scale[:, None], zero[:, None]
    if scale.ndim == 2 and scale.shape[1] > 1:
        scale, zero = (np.repeat(array, 3, axis=1) for array in (scale, zero))
    steps = weight / scale + zero
    return (steps >= limits.min) & (steps <= limits.max)


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT16", "UINT16"])
def test_stored_weight_in_blocks_equals_onnx_runtime(kind):
    numbers = list(range(8)) * 3
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0, block_size=4),
        helper.make_node("MatMul", ["x", "d"], ["out"]),
    ]
    element, scale = getattr(TensorProto, kind), noise(2, 4)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 6))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (2, 4))],
        [
            helper.make_tensor("w", element, (6, 4), numbers),
            numpy_helper.from_array(scale, "s"),
            helper.make_tensor("z", element, (2, 4), [3, 1, 0, 2] * 2),
        ],
    )
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )
    data = noise(2, 6)
    np.testing.assert_allclose(
        engine_outputs(model, [data])[0], runtime_outputs(model, [data])[0], rtol=1e-5, atol=1e-6
    )
