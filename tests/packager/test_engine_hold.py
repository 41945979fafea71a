"""Holding: zeros and clusters of marked weights survive training exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import GraphBuilder
from support.quant_graphs import TrainedLike
from support.techniques import context
from trimtab.compress.fine_tune import FineTune, apply
from trimtab.engine.hold import Holding
from trimtab.engine.module import GraphModule
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.access import held, hold
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph

pytestmark = pytest.mark.slow


def network() -> ir.Model:
    """A plain, a depthwise and a grouped convolution, and a dense layer."""
    b: GraphBuilder = TrainedLike(4, 8, 8)
    x = b.conv_relu("x", 4, 8)
    x = b.conv_relu(x, 8, 8, group=8)
    x = b.op("Flatten", b.conv_relu(x, 8, 8, group=2))
    return clean(b.build(b.op("Gemm", x, b.weight(5, 512), b.weight(5), transB=1)))


def kernels(model: ir.Model) -> dict[str, ir.Value]:
    return {name: value for name, value in model.graph.initializers.items() if len(value.shape) > 1}


def change(model: ir.Model, kind: str, function) -> ir.Model:
    for value in kernels(model).values():
        value.const_value = ir.tensor(function(value.const_value.numpy()), name=value.name)
        hold(value, kind)
    return model


def trained(model: ir.Model) -> ir.Model:
    x = np.random.default_rng(1).normal(size=(200, 4, 8, 8)).astype(np.float32)
    split = Split(inputs=(x,), labels=None)
    noise = Dataset(source="noise", train=split, test=split)
    result = apply(model, FineTune(epochs=3, batch_size=16), context(network(), noise))
    distances = [
        np.square(run_graph(m, [x])[0] - run_graph(network(), [x])[0]).mean()
        for m in (model, result)
    ]
    assert distances[1] < 0.9 * distances[0], "it must have learnt something"
    return result


def test_zeros_stay_zero_and_the_others_move():
    random = np.random.default_rng(2)

    def sparse(array: np.ndarray) -> np.ndarray:
        return np.where(random.random(array.shape) < 0.6, 0, array).astype(np.float32)

    model = change(network(), "zeros", sparse)
    after = kernels(trained(model))
    for name, before in kernels(model).items():
        old, new = before.const_value.numpy(), after[name].const_value.numpy()
        np.testing.assert_array_equal(new[old == 0], 0)
        assert not np.signbit(new[old == 0]).any()
        assert (new[old != 0] != old[old != 0]).mean() > 0.9
        assert held(after[name]) == "zeros"


def test_clusters_move_as_one_and_zero_stays_zero():
    levels = np.array([-0.4, -0.1, 0, 0.1, 0.4], np.float32)

    def shared(array: np.ndarray) -> np.ndarray:
        return levels[np.abs(array[..., None] - levels).argmin(axis=-1)]

    model = change(network(), "clusters", shared)
    after = kernels(trained(model))
    for name, before in kernels(model).items():
        old, new = before.const_value.numpy(), after[name].const_value.numpy()
        for level in np.unique(old):
            assert len(np.unique(new[old == level])) == 1
        np.testing.assert_array_equal(new[old == 0], 0)
        assert not np.array_equal(np.unique(new), np.unique(old))
        assert held(after[name]) == "clusters"


def two_layers(first: list[float], second: list[float], kind: str) -> GraphModule:
    b = GraphBuilder(2)
    x = b.op("MatMul", "x", b.weight(2, 2))
    model = b.build(b.op("MatMul", x, b.weight(2, 2)))
    for value, numbers in zip(kernels(model).values(), (first, second), strict=True):
        array = np.array(numbers, np.float32).reshape(2, 2)
        value.const_value = ir.tensor(array, name=value.name)
        hold(value, kind)
    return GraphModule(model, trainable=True)


@pytest.mark.parametrize(("kind", "expected"), [
    ("zeros", [[0, 2, 3, 4], [5, 0, 7, 8]]),
    ("clusters", [[0, 5, 5, 4], [12, 0, 12, 8]]),
    ("model_clusters", [[0, 17, 17, 12], [17, 0, 17, 12]]),
])  # fmt: skip
def test_a_shared_value_follows_the_sum_of_its_gradients(kind: str, expected: list) -> None:
    import tensorflow as tf

    module = two_layers([0, 2, 2, 3], [2, 0, 2, 3], kind)
    given = [tf.constant([[1.0, 2], [3, 4]]), tf.constant([[5.0, 6], [7, 8]]), None]
    *allowed, passed = Holding(module).gradients(given)
    assert [gradient.numpy().ravel().tolist() for gradient in allowed] == expected
    assert passed is None


def test_values_that_drift_apart_are_settled() -> None:
    module = two_layers([0, 2, 2, 3], [2, 0, 2, 3], "model_clusters")
    holding = Holding(module)
    module.variables[1].assign(module.variables[1].value + 1e-6)
    holding.settle()
    arrays = [variable.numpy().ravel().tolist() for variable in module.variables]
    assert arrays == [[0, 2, 2, 3], [2, 0, 2, 3]]
