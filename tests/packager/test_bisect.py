"""The first layer that departs is found, by bisection over the graph."""

from __future__ import annotations

import importlib

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.graphs import GRAPHS, GraphBuilder
from support.quant_graphs import GRAPHS as TRAINED_LIKE
from trimtab.compress.affine import Range
from trimtab.compress.calibrate import calibrate
from trimtab.compress.placement import quantized_groups
from trimtab.compress.quantize import quantize
from trimtab.errors import ExportError
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph
from trimtab.targets import export
from trimtab.targets.bisect import cut, cut_points, describe, first_departure
from trimtab.targets.gate import check_quantization


@st.composite
def graphs(draw: st.DrawFn) -> ir.Model:
    """Additions, each of two values before it."""
    x = ir.Value(name="v0", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    values, nodes = [x], []
    for number in range(1, draw(st.integers(2, 60))):
        nearest = values[max(0, number - 6) :]
        operands = [draw(st.sampled_from(nearest)) for _ in range(2)]
        nodes.append(ir.node("Add", operands))
        (value,) = nodes[-1].outputs
        value.name, value.type, value.shape = f"v{number}", x.type, ir.Shape([1])
        values.append(value)
    ends = [value for value in values[1:] if not list(value.uses())]
    graph = ir.Graph([x], ends, nodes=nodes, opset_imports={"": 21}, name="additions")
    return ir.Model(graph, ir_version=10)


@given(model=graphs(), data=st.data())
def test_first_departure_is_found_among_branches_in_few_looks(model, data):
    names = cut_points(model)
    culprit = data.draw(st.sampled_from(names))
    wrong, looks = set(), []
    for node in model.graph:
        inputs = {value.name for value in node.inputs}
        name = node.outputs[0].name
        if name == culprit or inputs & wrong:
            wrong.add(name)

    def departs(name: str) -> bool:
        looks.append(name)
        return name in wrong

    assert first_departure(model, names, departs) == culprit
    ends = len(model.graph.outputs)
    assert len(looks) <= ends + 3 * len(names).bit_length()
    assert first_departure(model, names, lambda name: False) is None


@pytest.fixture
def model() -> ir.Model:
    return clean(GRAPHS["residual"]())


@pytest.fixture
def samples(model) -> tuple[np.ndarray, ...]:
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    return (np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32),)


def test_graph_cut_behind_a_value_computes_that_value(model, samples):
    observed = model.clone()
    names = cut_points(model)
    values = {value.name: value for node in observed.graph for value in node.outputs}
    observed.graph.outputs[:] = [values[name] for name in names]
    for name, expected in zip(names, run_graph(observed, samples), strict=True):
        prefix = cut(model, name)
        (actual,) = run_graph(prefix.model, prefix.choose(samples))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_values_without_samples_along_their_first_axis_are_no_cut_points():
    b = GraphBuilder(6, 4)
    turned = b.op("Transpose", "x", perm=[1, 0, 2])
    back = b.op("Transpose", b.op("Relu", turned), perm=[1, 0, 2])
    model = clean(b.build(b.op("ReduceMean", b.op("Exp", back), axes=[1], keepdims=0)))
    values = {str(v.name): v for node in model.graph for v in node.outputs}
    kinds = [values[name].producer().op_type for name in cut_points(model)]
    assert kinds == ["Transpose", "Exp", "ReduceMean"]
    assert len(kinds) < len(values)


def with_changed_layer(model: ir.Model, weight: str) -> ir.Model:
    changed = model.clone()
    value = changed.graph.initializers.get(weight)
    if value is not None:
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.5), name=weight)
    return changed


@pytest.mark.parametrize(("target", "layers"), [("onnxruntime", slice(None)), ("openvino", [2])])
def test_layer_that_a_converter_breaks_is_named(
    target, layers, model, samples, tmp_path, monkeypatch
):
    module = importlib.import_module("trimtab.targets.export")
    write = module.WRITERS[target]
    convolutions = np.array([node for node in model.graph if node.op_type == "Conv"])
    for broken in convolutions[layers]:
        weight = str(broken.inputs[1].name)

        def faulty(graph, folder, request, weight=weight):
            return write(with_changed_layer(graph, weight), folder, request)

        monkeypatch.setitem(module.WRITERS, target, faulty)
        with pytest.raises(ExportError) as raised:
            export(model, target, tmp_path, samples=samples)
        layer = describe(model, broken.outputs[0].name)
        assert f"it first departs at {layer}." in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_layer_with_a_wrong_range_is_named():
    model = clean(TRAINED_LIKE["residual"]())
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    samples = (np.random.default_rng(0).normal(size=(32, *shape)).astype(np.float32),)
    groups = [group for group in quantized_groups(model.graph) if len(group) == 1]
    names = [name for group in quantized_groups(model.graph) for name in group]
    ranges = calibrate(model, samples, names, method="minmax")
    (wrong,) = groups[len(groups) // 2]
    quantized = quantize(model, {**ranges, wrong: Range(0.0, ranges[wrong].high * 1e-4)})
    with pytest.raises(ExportError, match="that begins at") as raised:
        check_quantization(quantized, model, samples)
    producer = next(node for node in model.graph if wrong in [v.name for v in node.outputs])
    assert describe(model, wrong) in str(raised.value), producer
