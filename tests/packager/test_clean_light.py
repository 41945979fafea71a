"""Cleaning on the architectures that the onnx package carries for its own tests.

Their files hold the structure, with a ConstantOfShape in the place of each weight; here each gets
random weights.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from trimtab.graph.clean import clean
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph

pytestmark = pytest.mark.slow

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = [
    *("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2"),
    *("resnet50", "shufflenet", "squeezenet"),
]
"""All but VGG-19 and ZFNet, whose weights take long and tell nothing that AlexNet's do not."""


def with_weights(name: str) -> onnx.ModelProto:
    """The model with weights among its inputs, as opset 9 wants it, and its last Softmax off.

    A Softmax over random numbers is 1 for one class, whatever comes before it.
    """
    proto = onnx.load(FOLDER / f"light_{name}.onnx")
    graph, rng = proto.graph, np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "ConstantOfShape":
            continue
        shape = [int(size) for size in shapes[node.input[0]]]
        gain = np.sqrt(2 / max(prod(shape[1:]), 1))
        random = rng.normal(size=shape) * gain if len(shape) > 1 else rng.uniform(0.5, 1.5, shape)
        weight = numpy_helper.from_array(random.astype(np.float32), node.output[0])
        graph.initializer.append(weight)
        graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, shape))
        graph.node.remove(node)
    if graph.node[-1].op_type == "Softmax":
        graph.node[-1].op_type = "Identity"
        del graph.node[-1].attribute[:]
    return proto


def run_file(path: Path, picture: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: picture})[0]


@pytest.mark.parametrize("name", NAMES)
def test_architecture_keeps_its_outputs_and_reaches_a_fixed_point(name, tmp_path):
    onnx.save(with_weights(name), tmp_path / "a.onnx")
    graph = load_model(tmp_path / "a.onnx")
    shape = [1, *graph.graph.inputs[0].shape[1:]]
    picture = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    wanted = run_file(tmp_path / "a.onnx", picture)
    found = run_graph(graph, [picture])[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert wanted.std() > 0
    again = clean(graph)
    serialized = [
        ir.to_proto(model).SerializeToString(deterministic=True) for model in (graph, again)
    ]
    assert serialized[0] == serialized[1]
    assert not {node.op_type for node in graph.graph} & {
        "BatchNormalization",
        "Dropout",
        "Identity",
    }
