"""Equalisation: what a model computes stays, and uneven channels lose less in int8."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.quant_graphs import GRAPHS, TrainedLike, depthwise
from trimtab.compress.channel_streams import find_streams
from trimtab.compress.equalize import equalize
from trimtab.compress.quantize import QuantizeInt8, apply
from trimtab.graph.access import constant, infer_shapes, set_initializer
from trimtab.graph.run import run_graph

ACTIVATIONS = ("Relu", "LeakyRelu", "Identity")


def typed(model: ir.Model) -> ir.Model:
    copy = model.clone()
    infer_shapes(copy)
    return copy


def samples(model: ir.Model, count: int = 16, seed: int = 0) -> tuple[np.ndarray, ...]:
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    return (np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32),)


def uneven(activation: str, group: int, *, residual: bool, seed: int = 0) -> ir.Model:
    """Layers whose output channels differ in size by up to 300 times."""
    b = TrainedLike(3, 10, 10)
    x = b.op(activation, b.conv("x", 3, 8))
    y = b.op(activation, b.conv(x, 8, 8, group=group))
    if residual:
        y = b.op("Add", b.conv(y, 8, 8, kernel=1), b.conv(x, 8, 8, kernel=1))
    model = b.build(b.conv(y, 8, 4, kernel=1))
    generator = np.random.default_rng(seed)
    for node in model.graph:
        if node.op_type == "Conv" and not node.outputs[0].is_graph_output():
            spread = np.exp(generator.uniform(-5.7, 0, 8)).astype(np.float32)
            for value, shape in zip(node.inputs[1:], [(-1, 1, 1, 1), (-1,)], strict=False):
                set_initializer(value, constant(value) * spread.reshape(shape))
    return typed(model)


@settings(deadline=None, max_examples=20)
@given(
    activation=st.sampled_from(ACTIVATIONS),
    group=st.sampled_from([1, 2, 8]),
    residual=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_float_outputs_stay(activation: str, group: int, residual: bool, seed: int) -> None:
    model = uneven(activation, group, residual=residual, seed=seed)
    (before,) = run_graph(model, samples(model, seed=1))
    changed = model.clone()
    assert equalize(changed, samples(model)) > 0
    (after,) = run_graph(changed, samples(model, seed=1))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_computes_what_it_did(name: str) -> None:
    model = typed(GRAPHS[name]())
    expected = run_graph(model, samples(model, seed=1))
    equalize(model, samples(model))
    for after, before in zip(run_graph(model, samples(model, seed=1)), expected, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group", [1, 8])
def test_uneven_channels_lose_less_in_int8(group: int) -> None:
    model = uneven("Relu", group, residual=False)
    context = SimpleNamespace(
        dataset=SimpleNamespace(calibration=lambda count, seed: samples(model, count)), seed=0
    )
    held_out = samples(model, seed=1)
    (expected,) = run_graph(model, held_out)

    def error(**parameters: bool) -> float:
        step = QuantizeInt8(calibration_samples=32, **parameters)
        (found,) = run_graph(apply(model, step, context), held_out)
        return float(np.square(found - expected).mean())

    assert error(equalize=True) < 0.7 * error()


def test_a_clip_ends_a_stream() -> None:
    model = typed(depthwise())
    (stream,) = find_streams(model.graph)
    first, second, _last = (node for node in model.graph if node.op_type == "Conv")
    assert [layer.node for layer in stream.writers] == [first]
    assert [layer.node for layer in stream.readers] == [second]


def test_the_input_model_is_untouched() -> None:
    model = uneven("Relu", 8, residual=True)
    before = ir.to_proto(model).SerializeToString()
    equalize(model.clone(), samples(model))
    assert ir.to_proto(model).SerializeToString() == before
