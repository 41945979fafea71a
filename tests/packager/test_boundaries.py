"""Tensor offsets in model files, against files made by the formats' own libraries."""

from __future__ import annotations

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tflite
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from support.packages import make_package
from trimtab.package.boundaries import boundaries, openvino_boundaries
from trimtab.package.read import open_package

RANDOM = np.random.default_rng(3)
BIG = [RANDOM.standard_normal((40, 50)).astype(np.float32) for _ in range(3)]
SMALL = np.arange(8, dtype=np.float32)


def onnx_file(tensors, doc=""):
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(BIG[2], "c")),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        initializer=[numpy_helper.from_array(t, f"t{i}") for i, t in enumerate(tensors)],
        doc_string=doc,
    )
    return helper.make_model(graph, doc_string=doc).SerializeToString()


def tflite_file(tensors):
    model = tflite.ModelT()
    model.version = 3
    model.buffers = []
    for tensor in tensors:
        buffer = tflite.BufferT()
        if tensor is not None:
            buffer.data = np.frombuffer(tensor.tobytes(), np.uint8)
        model.buffers.append(buffer)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def assert_tensors_lie_between(data, found, tensors):
    for tensor in tensors:
        start = data.index(tensor.tobytes())
        assert start in found
        assert start + tensor.nbytes in {*found, len(data)}


def test_onnx_initializers_and_constants_are_found():
    data = onnx_file([BIG[0], SMALL, BIG[1]])
    found = boundaries("model.onnx", data)
    assert_tensors_lie_between(data, found, BIG)
    assert len(found) <= 6


def test_tflite_buffers_are_found():
    data = tflite_file([None, BIG[0], SMALL, BIG[1]])
    found = boundaries("model.tflite", data)
    assert_tensors_lie_between(data, found, BIG[:2])
    assert len(found) <= 4


def test_openvino_constants_are_found():
    xml = b"""<net><layers>
      <layer type="Const"><data element_type="f32" shape="40,50" offset="0" size="8000"/></layer>
      <layer type="Const"><data element_type="f32" shape="8" offset="8000" size="32"/></layer>
      <layer type="Const"><data element_type="f32" shape="40,50" offset="8032" size="8000"/></layer>
      <layer type="Add"><data auto_broadcast="numpy"/></layer></layers></net>"""
    assert openvino_boundaries(xml) == [8000, 8032, 16032]
    assert openvino_boundaries(b"no xml") == []


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.bin", "labels.txt"])
@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_model_never_fail(name, data):
    assert all(0 < at < len(data) for at in boundaries(name, data))


@pytest.mark.parametrize(
    ("name", "make"), [("model.onnx", onnx_file), ("model.tflite", tflite_file)]
)
def test_a_model_cut_anywhere_never_fails(name, make):
    data = make(BIG[:2])
    for keep in range(0, len(data), 97):
        assert all(0 < at < keep for at in boundaries(name, data[:keep]))


@pytest.mark.parametrize(("model", "shares"), [("model.onnx", True), ("model.unknown", False)])
def test_a_longer_header_keeps_the_chunks_of_the_tensors(model, shares, tmp_path):
    """What boundaries are for: without them every chunk moves, and differs."""
    weights = [RANDOM.standard_normal((100, 100)).astype(np.float32) for _ in range(4)]
    versions = []
    for version, doc in (("1", ""), ("2", "longer " * 10)):
        data = onnx_file(weights, doc)
        path = make_package(
            tmp_path, data=data, model=model, chunk_limit_bytes=16384, version=version
        )
        versions.append({c.sha256 for c in open_package(path).manifest.file(model).chunks})
    shared = versions[0] & versions[1]
    assert len(shared) >= 10 if shares else not shared
