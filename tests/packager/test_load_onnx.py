"""Every form in which ONNX files keep weights, states and shapes loads and computes the same."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.graphs import GRAPHS
from trimtab.errors import ModelError
from trimtab.graph.access import infer_shapes
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph

RNG = np.random.default_rng(0)


def info(name: str, *shape: object, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.normal(size=shape).astype(dtype), name)


def model(nodes, inputs, outputs, weights=(), opset: int = 17) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def dense(dtype: type = np.float32, batch: object = "n") -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["s"]),
        helper.make_node("Mul", ["s", "f"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    weights = [weight(n, *s, dtype=dtype) for n, s in (("w", (4, 6)), ("b", (6,)), ("f", (6,)))]
    ports = [info("x", batch, 4, dtype=kind)], [info("y", batch, 6, dtype=kind)]
    return model(nodes, *ports, weights)


def weights_in_constants() -> onnx.ModelProto:
    proto = dense()
    for tensor in proto.graph.initializer:
        proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del proto.graph.initializer[:]
    return proto


def weights_among_inputs() -> onnx.ModelProto:
    proto = dense()
    for tensor in proto.graph.initializer:
        proto.graph.input.append(info(tensor.name, *tensor.dims))
    return proto


def fp16_weights() -> onnx.ModelProto:
    """Stored in half precision, computed in single."""
    proto = dense()
    for tensor in proto.graph.initializer:
        name, half = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        cast = helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT)
        proto.graph.node.insert(0, cast)
    return proto


def several_ports() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["sum"]),
        helper.make_node("Mul", ["sum", "sum"], ["square"]),
        helper.make_node("Identity", ["sum"], ["same"]),
    ]
    inputs = [info("a", "n", 4), info("b", "n", 6)]
    outputs = [info(name, "n", 6) for name in ("square", "sum", "same")]
    return model(nodes, inputs, outputs, [weight("w", 4, 6)])


def opset_11() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["u"], axes=[1]),
        helper.make_node("Softmax", ["u"], ["s"], axis=1),
        helper.make_node("ReduceSum", ["s"], ["y"], axes=[1], keepdims=0),
    ]
    return model(nodes, [info("x", "n", 4)], [info("y", "n", 4)], opset=11)


FORMS = {
    make.__name__: make
    for make in (dense, weights_in_constants, weights_among_inputs, fp16_weights, several_ports)
} | {
    "opset_11": opset_11,
    "half_precision": lambda: dense(np.float16),
    "double_precision": lambda: dense(np.float64),
    "fixed_batch": lambda: dense(batch=1),
}


def run_original(path, arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()][: len(arrays)]
    results = [
        session.run(None, {n: a[i : i + 1] for n, a in zip(names, arrays, strict=True)})
        for i in range(len(arrays[0]))
    ]
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def samples(graph: ir.Model) -> list[np.ndarray]:
    shapes = [list(value.shape[1:]) for value in graph.graph.inputs]
    dtypes = [value.dtype.numpy() for value in graph.graph.inputs]
    return [RNG.normal(size=(3, *s)).astype(d) for s, d in zip(shapes, dtypes, strict=True)]


@pytest.mark.parametrize("form", FORMS)
def test_form_computes_what_the_file_does(form, tmp_path):
    proto = FORMS[form]()
    onnx.save(proto, tmp_path / "a.onnx")
    graph = load_model(tmp_path / "a.onnx")
    data = samples(graph)
    kinds = [helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in proto.graph.input]
    given = [array.astype(kind) for array, kind in zip(data, kinds, strict=False)]
    expected = run_original(tmp_path / "a.onnx", given)
    tolerance = 2e-3 if kinds[0] == np.float16 else 1e-5
    for actual, wanted in zip(run_graph(graph, data), expected, strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    assert [v.name for v in graph.graph.outputs] == [v.name for v in proto.graph.output]
    assert graph.opset_imports[""] >= 13


def test_external_data_comes_along(tmp_path):
    proto = dense()
    data = [RNG.normal(size=(3, 4)).astype(np.float32)]
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(proto, tmp_path / "a.onnx", **options)
    graph = load_model(tmp_path / "a.onnx")
    expected = run_original(tmp_path / "a.onnx", data)[0]
    (tmp_path / "weights.bin").unlink()
    np.testing.assert_allclose(run_graph(graph, data)[0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match=r"a\.onnx is not a valid ONNX model: .*weights\.bin"):
        load_model(tmp_path / "a.onnx")


def test_state_may_have_any_first_dimension(tmp_path):
    """A recurrent step with its state: [layers, batch, hidden] beside [batch, features]."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "state"], ["new_state"]),
        helper.make_node("ReduceSum", ["new_state", "axes"], ["y"], keepdims=0),
        helper.make_node("Mul", ["rate", "y"], ["scaled"]),
    ]
    axes = numpy_helper.from_array(np.int64([0]), "axes")
    inputs = [info("x", 1, 4), info("state", 2, 1, 6), info("rate")]
    outputs = [info("scaled", 1, 6), info("new_state", 2, 1, 6)]
    onnx.save(model(nodes, inputs, outputs, [weight("w", 4, 6), axes]), tmp_path / "a.onnx")
    x, state, rate = (RNG.normal(size=s).astype(np.float32) for s in ((5, 4), (5, 2, 1, 6), 5))
    scaled, new_state = run_graph(load_model(tmp_path / "a.onnx"), [x, state, rate])
    assert (scaled.shape, new_state.shape) == ((5, 6), (5, 2, 1, 6))
    np.testing.assert_allclose(scaled, new_state.sum(axis=1)[:, 0] * rate[:, None], rtol=1e-4)


def test_failing_shape_inference_is_quiet_and_keeps_what_it_can(caplog):
    graph = GRAPHS["plain"]()
    node = next(node for node in graph.graph if node.op_type == "GlobalAveragePool")
    node.attributes["strides"] = ir.AttrString("strides", "none")
    first = next(iter(graph.graph))
    first.outputs[0].shape = None
    with caplog.at_level(logging.INFO):
        infer_shapes(graph)
    assert not caplog.records
    assert first.outputs[0].shape is not None


def test_operator_of_somebody_else_keeps_its_shape():
    proto = dense()
    relu = proto.graph.node[-1]
    relu.domain, relu.op_type = "com.somebody", "Their"
    proto.graph.node.append(helper.make_node("Neg", ["y"], ["z"]))
    proto.graph.value_info.append(info("y", "n", 6))
    proto.opset_import.append(helper.make_opsetid("com.somebody", 1))
    proto.graph.output[0].name = "z"
    graph = ir.from_proto(proto)
    infer_shapes(graph)
    assert [list(v.shape)[1] for n in graph.graph for v in n.outputs] == [6] * 5
