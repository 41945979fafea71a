"""The engine against ONNX's own test cases, for every operator that it knows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.onnx_cases import (
    REFUSED,
    cases,
    cases_of,
    check_case,
    engine_outputs,
    prepared,
    reason_to_refuse,
    runtime_outputs,
)
from trimtab.engine.supported import check_supported, supported_operators
from trimtab.errors import UnsupportedOperatorError

pytestmark = pytest.mark.slow

WITHOUT_CASES = {"GlobalLpPool"}
"""Operators that ONNX has no case for; this file has its own."""


@pytest.mark.parametrize("operator", supported_operators())
def test_operator_is_as_the_standard_has_it(operator):
    names = [name for name in cases_of(operator) if not reason_to_refuse(name)]
    for name in names:
        check_case(name)
    assert names or operator in WITHOUT_CASES


@pytest.mark.parametrize("reason", REFUSED)
def test_what_the_engine_lacks_is_refused_by_name(reason):
    names = [name for name in cases() if reason_to_refuse(name) == reason]
    assert names
    for name in names:
        model, data, _ = prepared(cases()[name])
        operator = model.graph.node(0).op_type
        with pytest.raises(UnsupportedOperatorError, match=f"{operator} .* is not supported") as e:
            engine_outputs(model, data)
        assert e.value.operators == (operator,), name


def one_node(operator: str, *arrays: np.ndarray, data: int = 1, **attributes) -> ir.Model:
    """A graph of one node: the first `data` arrays are inputs, the others initializers."""
    names = [f"i{index}" if array is not None else "" for index, array in enumerate(arrays)]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in zip(names[:data], arrays[:data], strict=True)
    ]
    initializers = [
        numpy_helper.from_array(array, name)
        for name, array in zip(names[data:], arrays[data:], strict=True)
        if array is not None
    ]
    node = helper.make_node(operator, names, ["out"], name="n", **attributes)
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [output], initializers)
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    )


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


CONVOLUTIONS = {
    "1-D": ((2, 4, 20), (6, 4, 3), {}),
    "1-D strided and padded on one side": ((2, 4, 20), (6, 4, 3), {"strides": [2], "pads": [2, 0]}),
    "1-D depthwise, strided": ((2, 4, 21), (4, 1, 5), {"group": 4, "strides": [3], "pads": [2, 2]}),
    "1-D dilated": ((2, 4, 20), (6, 4, 3), {"dilations": [4], "pads": [4, 4]}),
    "2-D same, odd side": (
        (2, 3, 9, 8), (5, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    ),
    "2-D grouped": ((2, 6, 9, 8), (8, 3, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "2-D depthwise": ((2, 6, 9, 8), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "2-D depthwise, several filters a channel": ((2, 3, 9, 8), (6, 1, 3, 3), {"group": 3}),
    "2-D depthwise, unequal strides": (
        (2, 3, 9, 8), (3, 1, 3, 3), {"group": 3, "strides": [2, 1], "pads": [1, 1, 1, 1]},
    ),
    "2-D depthwise, strided and dilated": (
        (2, 3, 15, 15), (3, 1, 3, 3), {"group": 3, "strides": [2, 2], "dilations": [2, 2]},
    ),
    "2-D strided and dilated": (
        (2, 3, 15, 15), (4, 3, 3, 3), {"strides": [2, 2], "dilations": [2, 3]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", CONVOLUTIONS)
def test_convolution_equals_onnx_runtime(variant):
    shape, kernel, attributes = CONVOLUTIONS[variant]
    data = noise(*shape)
    model = one_node("Conv", data, noise(*kernel), noise(kernel[0]), **attributes)
    np.testing.assert_allclose(
        engine_outputs(model, [data])[0], runtime_outputs(model, [data])[0], rtol=1e-4, atol=1e-5
    )


POOLINGS = {
    "1-D": ((2, 3, 20), {"kernel_shape": [3], "strides": [2]}),
    "1-D, padded and rounded up": (
        (2, 3, 20), {"kernel_shape": [4], "strides": [3], "pads": [1, 1], "ceil_mode": 1},
    ),
    "2-D, asymmetric": ((2, 3, 9, 8), {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1]}),
    "2-D, stride above kernel": ((2, 3, 9, 8), {"kernel_shape": [1, 1], "strides": [2, 2]}),
    "2-D, as ResNet pads": (
        (2, 3, 12, 12), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "2-D, dilated like SAME": (
        (2, 3, 12, 12), {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [2, 2, 2, 2]},
    ),
    "2-D, rounded up": ((2, 3, 9, 8), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
}  # fmt: skip


@pytest.mark.parametrize("variant", POOLINGS)
@pytest.mark.parametrize(
    ("operator", "options"),
    [
        ("MaxPool", {}),
        ("AveragePool", {}),
        ("AveragePool", {"count_include_pad": 1}),
    ],
)
def test_pooling_equals_onnx_runtime(variant, operator, options):
    shape, attributes = POOLINGS[variant]
    data = noise(*shape) - 5  # below zero, so that zeros at the border would win
    model = one_node(operator, data, **attributes, **options)
    np.testing.assert_allclose(
        engine_outputs(model, [data])[0], runtime_outputs(model, [data])[0], rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_pair_around_an_activation_equals_onnx_runtime(dtype):
    data = noise(2, 3, 5) * 3
    scale, zero_point = np.float32(0.021), np.asarray(7, dtype)
    model = one_node("QuantizeLinear", data, scale, zero_point)
    first = model.graph.node(0)
    restored = ir.node("DequantizeLinear", [first.outputs[0], *first.inputs[1:]])
    model.graph.append(restored)
    model.graph.outputs[0] = restored.outputs[0]
    restored.outputs[0].dtype = ir.DataType.FLOAT
    first.outputs[0].dtype = ir.DataType(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    actual, expected = engine_outputs(model, [data])[0], runtime_outputs(model, [data])[0]
    # A number halfway between two steps may go to either.
    assert np.abs(actual - expected).max() <= scale * 1.001
    assert np.mean(np.abs(actual - expected) < 1e-5) > 0.95


def test_three_dimensional_convolution_is_refused_by_name():
    data = noise(1, 2, 4, 4, 4)
    with pytest.raises(UnsupportedOperatorError, match="'n': Conv over 3 dimensions"):
        engine_outputs(one_node("Conv", data, noise(3, 2, 2, 2, 2)), [data])


def test_computed_axes_are_refused_not_ignored():
    data, axes = noise(2, 3), np.asarray([1])
    model = one_node("ReduceSum", data, axes, data=2)
    with pytest.raises(UnsupportedOperatorError, match="ReduceSum with a computed input 1"):
        engine_outputs(model, [data, axes])


def test_all_unknown_operators_are_named_at_once():
    model = one_node("Det", noise(1, 3, 3))
    output = model.graph.node(0).outputs[0]
    for name in ("If", "If"):
        output = ir.node(name, [output]).outputs[0]
        model.graph.append(output.producer())
    with pytest.raises(UnsupportedOperatorError, match=r"Det \(1x\), If \(2x\)") as caught:
        check_supported(model)
    assert caught.value.operators == ("Det", "If")


def test_norm_of_everything_is_pooled():
    data = noise(2, 3, 4, 5)
    expected = (np.abs(data) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)
    (actual,) = engine_outputs(one_node("GlobalLpPool", data, p=3), [data])
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
