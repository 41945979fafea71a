"""Gradients by weight: in ONNX's order, right against finite differences, and never all zero."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.quant_graphs import TrainedLike
from trimtab.compress.teacher import teacher_answers
from trimtab.engine.sensitivity import weight_gradients
from trimtab.errors import DataError
from trimtab.graph.access import set_initializer
from trimtab.graph.clean import clean

pytestmark = pytest.mark.slow


def network(end: str | None) -> ir.Model:
    b = TrainedLike(3, 8, 8)
    x = b.op("Tanh", b.conv("x", 3, 4))
    x = b.op("Flatten", b.op("Tanh", b.conv(x, 4, 4, group=4)))
    y = b.op("Gemm", x, b.weight(5, 256), b.weight(5), transB=1)
    return clean(b.build(b.op(end, y) if end else y))


def samples(count: int = 32) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, 8, 8)).astype(np.float32)


def weights(model: ir.Model) -> dict[str, ir.Value]:
    return {n: v for n, v in model.graph.initializers.items() if v.dtype == ir.DataType.FLOAT}


def cross_entropy(model: ir.Model, x: np.ndarray, labels: np.ndarray) -> float:
    (logits,) = (array.astype(np.float64) for array in teacher_answers(model, [x]))
    log_total = np.log(np.exp(logits).sum(axis=1))
    return float((log_total - logits[np.arange(len(labels)), labels]).mean())


def test_gradients_are_those_of_the_loss_in_onnx_order():
    model, x = network("Softmax"), samples()
    labels = np.random.default_rng(2).integers(0, 5, len(x))
    found = weight_gradients(model, [x], teacher_answers(model, [x]), labels, batch=12)
    assert set(found.mean) == set(weights(model)) == set(found.squared)
    for name, value in weights(model).items():
        array = value.const_value.numpy()
        assert found.mean[name].shape == found.squared[name].shape == array.shape
        direction = np.random.default_rng(3).normal(size=array.shape)
        losses = []
        for sign in (1, -1):
            moved = model.clone()
            shifted = (array + sign * 1e-3 * direction).astype(np.float32)
            set_initializer(moved.graph.initializers[name], shifted)
            losses.append(cross_entropy(moved, x, labels))
        slope = (losses[0] - losses[1]) / 2e-3
        assert np.sum(found.mean[name] * direction) == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_squares_of_single_samples_are_those_of_their_gradients():
    model, x = network("Softmax"), samples(6)
    labels = np.arange(6) % 5
    answers = teacher_answers(model, [x])
    together = weight_gradients(model, [x], answers, labels, batch=1)
    one_by_one = [
        weight_gradients(model, [x[i : i + 1]], [answers[0][i : i + 1]], labels[i : i + 1]).mean
        for i in range(6)
    ]
    for name, squared in together.squared.items():
        expected = np.mean([np.square(single[name]) for single in one_by_one], axis=0)
        np.testing.assert_allclose(squared, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("end", ["Softmax", "Sigmoid", None])
def test_unlabelled_gradients_are_not_zero_before_anything_is_pruned(end):
    model, x = network(end), samples()
    before = weights(model.clone())
    found = [weight_gradients(model, [x], teacher_answers(model, [x]), None) for _ in range(2)]
    for name, value in weights(model).items():
        assert (found[0].squared[name] > 0).all()
        np.testing.assert_array_equal(found[0].mean[name], found[1].mean[name])
        np.testing.assert_array_equal(value.const_value.numpy(), before[name].const_value.numpy())


@pytest.mark.parametrize(
    ("end", "labels", "message"),
    [
        ("Softmax", np.full(4, 5), "4 labels of output .* are outside 0 to 4, such as 5"),
        (
            "Softmax",
            np.zeros(4, np.float32),
            r"must have the shape \[4\] and be whole numbers; got",
        ),
        (None, np.zeros((4, 3), np.float32), r"must have the shape \[4, 5\]; got \[4, 3\], float"),
        ("Sigmoid", np.zeros(4, np.int64), r"must have the shape \[4, 5\]; got \[4\], int64"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_one_line(end, labels, message):
    model, x = network(end), samples(4)
    with pytest.raises(DataError, match=message):
        weight_gradients(model, [x], teacher_answers(model, [x]), labels)
