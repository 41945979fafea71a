"""Tensors in model files, found in files made by the formats' own libraries."""

from __future__ import annotations

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tflite
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from support.packages import make_package
from trimtab.package.coding.segment import Segment
from trimtab.package.coding.segments import segments
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
    graph = tflite.SubGraphT()
    graph.tensors = []
    model.subgraphs = [graph]
    for number, tensor in enumerate(tensors):
        entry = tflite.TensorT()
        entry.buffer = number
        if tensor is not None:
            entry.shape = np.array(tensor.shape, np.int32)
            entry.type = tflite.TensorType.FLOAT32
            graph.tensors.append(entry)
        buffer = tflite.BufferT()
        if tensor is not None:
            buffer.data = np.frombuffer(tensor.tobytes(), np.uint8)
        model.buffers.append(buffer)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def found(name, data, **others):
    """Segments of a file, after a check that they are the file."""
    parts = segments(name, {name: data, **others})
    assert b"".join(data[p.start : p.stop] for p in parts) == data
    assert [p.start for p in parts[1:]] == [p.stop for p in parts[:-1]]
    return parts


def assert_has(data, parts, tensors):
    for tensor in tensors:
        start = data.index(tensor.tobytes())
        expected = Segment(start, start + tensor.nbytes, "tensor", 4, True, tensor.shape)
        assert expected in parts


def test_onnx_initializers_and_constants_are_found():
    data = onnx_file([BIG[0], SMALL, BIG[1]])
    assert_has(data, found("model.onnx", data), [*BIG, SMALL])


def test_floats_that_onnx_keeps_as_numbers_are_found():
    tensor = helper.make_tensor("t", TensorProto.FLOAT, BIG[0].shape, BIG[0].ravel())
    graph = helper.make_graph([], "g", [], [], initializer=[tensor])
    data = helper.make_model(graph).SerializeToString()
    assert_has(data, found("model.onnx", data), BIG[:1])


def test_tflite_buffers_are_found():
    data = tflite_file([None, BIG[0], SMALL, BIG[1]])
    assert_has(data, found("model.tflite", data), [*BIG[:2], SMALL])


OPENVINO = b"""<net><layers>
  <layer type="Const"><data element_type="f32" shape="40,50" offset="0" size="8000"/></layer>
  <layer type="Const"><data element_type="i4" shape="64" offset="8000" size="32"/></layer>
  <layer type="Const"><data element_type="f32" shape="40,50" offset="8040" size="8000"/></layer>
  <layer type="Add"><data auto_broadcast="numpy"/></layer></layers></net>"""


def test_openvino_constants_are_found():
    parts = found("m.bin", bytes(16040), **{"m.xml": OPENVINO})
    assert parts == [
        Segment(0, 8000, "tensor", 4, True, (40, 50)),
        Segment(8000, 8032),
        Segment(8032, 8040, "structure"),
        Segment(8040, 16040, "tensor", 4, True, (40, 50)),
    ]


def test_tensors_past_the_end_are_left_out():
    assert found("m.bin", bytes(9000), **{"m.xml": OPENVINO})[-1] == Segment(
        8032, 9000, "structure"
    )


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.bin", "labels.txt"])
@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_model_never_fail(name, data):
    found(name, data)


@pytest.mark.parametrize(
    ("name", "make"), [("model.onnx", onnx_file), ("model.tflite", tflite_file)]
)
def test_a_model_cut_anywhere_never_fails(name, make):
    data = make(BIG[:2])
    for keep in range(0, len(data), 97):
        found(name, data[:keep])


def test_a_longer_header_keeps_the_chunks_of_the_tensors(tmp_path):
    """What boundaries are for: without them every chunk moves, and differs."""
    weights = [RANDOM.standard_normal((730, 730)).astype(np.float32) for _ in range(4)]
    versions = []
    for version, doc in (("1", ""), ("2", "longer " * 10)):
        data = onnx_file(weights, doc)
        path = make_package(tmp_path, data=data, model="model.onnx", version=version)
        versions.append(open_package(path).manifest.file("model.onnx").chunks)
    shared = {c.sha256 for c in versions[0]} & {c.sha256 for c in versions[1]}
    assert len(shared) >= len(versions[0]) // 2
