"""Every form in which ONNX files keep weights, states and shapes loads and computes the same."""

from __future__ import annotations

import logging

import ml_dtypes
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


def opset_7() -> onnx.ModelProto:
    """What was an attribute then: a padding, a slice, bounds, scales."""
    nodes = [
        helper.make_node("Pad", ["x"], ["p"], pads=[0, 0, 0, 1]),
        helper.make_node("Unsqueeze", ["p"], ["u"], axes=[1, 2]),
        helper.make_node("Upsample", ["u"], ["v"], scales=[1.0, 1.0, 1.0, 2.0]),
        helper.make_node("Slice", ["v"], ["s"], axes=[3], starts=[1], ends=[9]),
        helper.make_node("Clip", ["s"], ["c"], min=-0.5, max=0.5),
        helper.make_node("BatchNormalization", ["c", "one", "one", "one", "one"], ["n"]),
        helper.make_node("Dropout", ["n"], ["d"]),
        helper.make_node("Squeeze", ["d"], ["y"], axes=[1, 2]),
    ]
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    proto = model(nodes, [info("x", "n", 4)], [info("y", "n", 8)], [one], opset=7)
    proto.ir_version = 3
    proto.graph.input.append(info("one", 1))
    return proto


def bfloat16() -> onnx.ModelProto:
    """Weights of 16 bits between casts, as mixed precision leaves them."""
    proto = dense()
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    proto.graph.node.append(helper.make_node("Cast", ["x"], ["xb"], to=TensorProto.BFLOAT16))
    nodes[0].input[0], nodes[-1].output[0] = "xb", "yb"
    proto.graph.node.extend(nodes)
    proto.graph.node.append(helper.make_node("Cast", ["yb"], ["y"], to=TensorProto.FLOAT))
    return proto


def mixed_branches() -> onnx.ModelProto:
    """Half precision inside of an If that stays, and in a constant's attribute."""
    half = numpy_helper.from_array(np.float16([2]), "")
    branches = []
    for name, operator in (("then", "Mul"), ("else", "Add")):
        nodes = [
            helper.make_node("Constant", [], [f"two_{name}"], value=half),
            helper.make_node(operator, ["h", f"two_{name}"], [name]),
        ]
        out = info(name, None, 4, dtype=TensorProto.FLOAT16)
        branches.append(helper.make_graph(nodes, name, [], [out]))
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["r"], then_branch=branches[0], else_branch=branches[1]
        ),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    return model(nodes, [info("x", 1, 4)], [info("y", 1, 4)], [zero])


FORMS = {
    make.__name__: make
    for make in (dense, weights_in_constants, weights_among_inputs, fp16_weights, several_ports)
} | {
    "opset_7": opset_7,
    "opset_11": opset_11,
    "mixed_branches": mixed_branches,
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
    kinds = [
        helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in proto.graph.input
    ]
    given = [array.astype(kind) for array, kind in zip(data, kinds, strict=False)]
    expected = run_original(tmp_path / "a.onnx", given)
    half = kinds[0] == np.float16 or form == "mixed_branches"
    tolerance = 2e-3 if half else 1e-5
    for actual, wanted in zip(run_graph(graph, data), expected, strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    assert [v.name for v in graph.graph.outputs] == [v.name for v in proto.graph.output]
    assert graph.opset_imports[""] >= 13


def test_bfloat16_becomes_float32(tmp_path):
    """ONNX Runtime has no kernels for it on a CPU: numpy says what is right."""
    proto = bfloat16()
    onnx.save(proto, tmp_path / "a.onnx")
    graph = load_model(tmp_path / "a.onnx")
    w, b, f = (numpy_helper.to_array(t).astype(np.float32) for t in proto.graph.initializer)
    data = RNG.normal(size=(3, 4)).astype(np.float32)
    found = run_graph(graph, [data])[0]
    np.testing.assert_allclose(found, np.maximum((data @ w + b) * f, 0), rtol=1e-5, atol=1e-6)
    assert "Cast" not in {node.op_type for node in graph.graph}


def test_number_beyond_float32_becomes_its_end(tmp_path):
    """The lowest double as a mask: infinity would make a difference of it with itself NaN."""
    proto = dense(np.float64)
    low = numpy_helper.from_array(np.float64([-1.7e308, 0, 0, 0, 0, np.inf]), "f")
    proto.graph.initializer[2].CopyFrom(low)
    proto.graph.node[2].op_type = "Add"
    del proto.graph.node[3]
    proto.graph.node[2].output[0] = "y"
    onnx.save(proto, tmp_path / "a.onnx")
    found = run_graph(load_model(tmp_path / "a.onnx"), [np.zeros((1, 4), np.float32)])[0][0]
    assert found[0] == np.finfo(np.float32).min
    assert found[5] == np.inf


def test_opset_that_cannot_be_raised_is_said(tmp_path):
    proto = opset_7()
    proto.graph.node[2].attribute.pop()
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"a\.onnx(: the model cannot be brought| is not a valid)"):
        load_model(tmp_path / "a.onnx")


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
