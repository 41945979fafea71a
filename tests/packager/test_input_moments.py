"""Second moments of layers' inputs, against windows that are cut out one by one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from trimtab.compress.input_moments import input_moments
from trimtab.compress.weights import find_weights
from trimtab.graph.access import add_initializer

FORMS = {
    "plain": {},
    "padded": {"pads": [1, 0, 1, 2]},
    "strided": {"strides": [2, 1]},
    "dilated": {"dilations": [1, 2]},
    "in groups": {"group": 2},
    "everything": {"pads": [1, 1, 1, 1], "strides": [2, 2], "dilations": [2, 1], "group": 4},
}


def convolution(attributes: dict[str, object]) -> ir.Model:
    groups = int(attributes.get("group", 1))  # type: ignore[call-overload]
    x = ir.Value(name="x", shape=ir.Shape([None, 4, 7, 6]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], name="g", opset_imports={"": 21})
    weights = np.random.default_rng(0).normal(size=(8, 4 // groups, 3, 2)).astype(np.float32)
    node = ir.node("Conv", [x, add_initializer(graph, "w", weights)], attributes, name="conv")
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("name", FORMS)
def test_windows_are_what_the_convolution_sees(name: str) -> None:
    """Sums of squared outputs follow from the moments alone, whatever the window's form."""
    from trimtab.graph.run import run_graph

    model = convolution(FORMS[name])
    x = np.random.default_rng(1).normal(size=(5, 4, 7, 6)).astype(np.float32)
    (weight,) = find_weights(model)
    moments = input_moments(model, [weight], [x])["w"]
    (outputs,) = run_graph(model, [x])
    rows = weight.array.reshape(len(moments), -1, moments.shape[-1]).astype(np.float64)
    expected = np.einsum("goi,gij,goj->go", rows, moments, rows).ravel()
    actual = np.square(outputs, dtype=np.float64).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
