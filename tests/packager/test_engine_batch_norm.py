"""Batch norms brought back for training: nothing at first, trained, folded exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.quant_graphs import TrainedLike
from trimtab.compress.teacher import teacher_answers
from trimtab.engine.schedule import Schedule
from trimtab.engine.train import fine_tune
from trimtab.graph.access import constant, hold
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph

pytestmark = pytest.mark.slow


def residual(*, rank: int = 2) -> ir.Model:
    """A convolution without a bias, a depthwise one, an addition, and dead channels."""
    b = TrainedLike(3, *[8] * rank)
    free = b.op("Conv", "x", b.weight(8, 3, *[3] * rank), pads=[1] * (2 * rank))
    x = b.op("Relu", free)
    y = b.conv(x, 8, 8, rank=rank, group=8)
    x = b.op("Relu", b.op("Add", x, y))
    pooled = b.op("Flatten", b.op("GlobalAveragePool", x))
    model = clean(b.build(b.op("Gemm", pooled, b.weight(5, 8), b.weight(5), transB=1)))
    kernel = next(node for node in model.graph if node.op_type == "Conv").inputs[1]
    array = constant(kernel).copy()
    array[:2] = 0
    kernel.const_value = ir.tensor(array, name=kernel.name)
    return model


def samples(rank: int, count: int = 600) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, *[8] * rank)).astype(np.float32)


def schedule(**changes: object) -> Schedule:
    fields = {"epochs": 1, "learning_rate": 0.003, "batch_size": 50, "temperature": 1.0, "seed": 0}
    return Schedule(**{**fields, "reinflate": True, **changes})


def operators(model: ir.Model) -> list[str]:
    return sorted(node.op_type for node in model.graph)


@pytest.mark.parametrize("rank", [1, 2])
def test_untrained_norms_fold_away_to_the_same_model(rank):
    model, x = residual(rank=rank), samples(rank)
    before = run_graph(model, [x])[0]
    trained = model.clone()
    # Targets that no step can come nearer to: the start is kept.
    fine_tune(trained, [x], before, None, schedule(learning_rate=1.0))
    after = run_graph(trained, [x])[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    assert operators(trained) == operators(model)


@pytest.mark.parametrize("rank", [1, 2])
def test_trained_model_without_norms_does_what_the_trained_one_with_them_did(rank):
    """The held-back loss is measured with norms; the folded graph must have the same."""
    model, x = residual(rank=rank), samples(rank)
    targets = np.tanh(2 * run_graph(model, [x])[0])[:, ::-1].copy()
    history = fine_tune(model, [x], targets, None, schedule(epochs=4, learning_rate=0.01))
    best = min(entry.validation for entry in history)
    assert best < 0.8 * history[0].validation
    order = np.random.default_rng(0).permutation(len(x))[: round(len(x) * 0.1)]
    loss = np.square(run_graph(model, [x])[0] - targets)[order].mean() / targets.var()
    assert loss == pytest.approx(best, rel=1e-3)


def test_zeros_of_held_weights_survive_the_fold_and_clusters_get_no_norm():
    model, x = residual(), samples(2)
    kernels = [node.inputs[1] for node in model.graph if node.op_type == "Conv"]
    random = np.random.default_rng(3)
    sparse = [np.where(random.random(k.shape) < 0.5, 0, constant(k)) for k in kernels]
    sparse[1] = np.sign(sparse[1]) * 0.3
    for kernel, array, kind in zip(kernels, sparse, ["zeros", "clusters"], strict=True):
        kernel.const_value = ir.tensor(array.astype(np.float32), name=kernel.name)
        hold(kernel, kind)
    targets = teacher_answers(residual(), [x])
    fine_tune(model, [x], targets, None, schedule(epochs=3))
    np.testing.assert_array_equal(constant(kernels[0])[sparse[0] == 0], 0)
    assert len(np.unique(constant(kernels[1]))) == 3
    assert (constant(kernels[0]) != sparse[0]).any()


@pytest.mark.parametrize("changes", [{"batch_size": 4}, {"samples": 300}, {"reinflate": False}])
def test_too_little_data_for_statistics_trains_without(changes, monkeypatch):
    from trimtab.engine import step

    monkeypatch.setattr(step, "BatchNorms", None)
    count = changes.pop("samples", 600)
    model, x = residual(), samples(2, count)
    history = fine_tune(model, [x], run_graph(model, [x])[0], None, schedule(**changes))
    assert len(history) == 2
