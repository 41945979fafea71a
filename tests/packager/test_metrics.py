"""Metrics and evaluation: properties over random scores, and a session with known faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ExportError
from trimtab.evaluate import metrics
from trimtab.evaluate.data import Split
from trimtab.evaluate.evaluate import evaluate
from trimtab_agent.contract.manifest import TensorSpec


@st.composite
def cases(draw):
    """Scores of two models and labels, over the same samples."""
    samples, classes = draw(st.integers(1, 30)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    return (
        generator.normal(size=(samples, classes)),
        generator.normal(size=(samples, classes)),
        generator.integers(0, classes, samples),
    )


@given(cases())
def test_disagreement_bounds_the_loss_of_accuracy(case):
    scores, reference, labels = case
    loss = metrics.top1(reference, labels) - metrics.top1(scores, labels)
    assert abs(loss) <= 1 - metrics.agreement(scores, reference) + 1e-12


@given(cases())
def test_a_model_agrees_with_itself(case):
    scores, _, _ = case
    assert metrics.agreement(scores, scores) == 1
    assert metrics.max_abs_error(scores, scores) == 0
    assert metrics.top1(scores, scores.argmax(axis=1)) == 1


@given(cases())
def test_classes_add_up_to_the_whole(case):
    scores, _, labels = case
    shares = metrics.per_class_accuracy(scores, labels)
    counts = np.bincount(labels, minlength=scores.shape[1])
    assert [share is None for share in shares] == [count == 0 for count in counts]
    right = sum((share or 0) * count for share, count in zip(shares, counts, strict=True))
    assert right / len(labels) == pytest.approx(metrics.top1(scores, labels))


@given(successes=st.integers(0, 500), more=st.integers(0, 500))
def test_the_interval_holds_the_share_and_stays_in_range(successes, more):
    samples = max(1, successes + more)
    share = successes / samples
    low, high = metrics.wilson_interval(share, samples)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    wider = metrics.wilson_interval(share, samples * 4)
    assert wider[1] - wider[0] < high - low


def test_the_interval_is_the_published_one():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263.
    assert metrics.wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_coverage_near_one():
    generator = np.random.default_rng(1)
    shares = generator.binomial(300, 0.98, size=2000) / 300
    held = [low <= 0.98 <= high for low, high in (metrics.wilson_interval(s, 300) for s in shares)]
    assert 0.93 < np.mean(held) < 0.98


class LinearSession:
    """A session that multiplies its input by a matrix, one sample at a time."""

    provider = None
    version = "1"

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights
        self.inputs = (TensorSpec(name="x", shape=(1, len(weights)), dtype="float32"),)
        self.outputs = (TensorSpec(name="y", shape=(1, weights.shape[1]), dtype="float32"),)

    def run(self, arrays):
        assert arrays[0].shape == self.inputs[0].shape
        return [arrays[0] @ self.weights]


X = np.random.default_rng(3).normal(size=(150, 4)).astype(np.float32)
WEIGHTS = np.random.default_rng(4).normal(size=(4, 3)).astype(np.float32)
LABELS = (X @ WEIGHTS).argmax(axis=1)


def test_evaluation_with_labels():
    labels = LABELS.copy()
    labels[:15] = (labels[:15] + 1) % 3
    calls = []
    result = evaluate(
        LinearSession(WEIGHTS * 2),
        Split(inputs=(X,), labels=labels),
        [X @ WEIGHTS],
        progress=lambda done, total: calls.append((done, total)),
    )
    assert (result.metric, result.samples, result.agreement) == ("top1", 150, 1.0)
    assert result.value == result.reference == pytest.approx(0.9)
    assert result.max_abs_error == pytest.approx(np.abs(X @ WEIGHTS).max(), rel=1e-5)
    assert calls == [(64, 150), (128, 150), (150, 150)]


def test_evaluation_without_labels_claims_no_accuracy():
    result = evaluate(LinearSession(-WEIGHTS), Split(inputs=(X,), labels=None), [X @ WEIGHTS])
    assert result.metric is result.value is result.reference is None
    assert result.agreement is not None
    assert result.agreement < 0.5


def test_one_score_is_no_class():
    result = evaluate(
        LinearSession(WEIGHTS[:, :1]), Split(inputs=(X,), labels=LABELS), [X @ WEIGHTS[:, :1]]
    )
    assert result.metric is result.agreement is None


def test_outputs_that_are_not_finite_are_an_error():
    weights = WEIGHTS.copy()
    weights[0, 0] = np.nan
    with pytest.raises(ExportError, match="has 150 values that are not finite, of 450"):
        evaluate(LinearSession(weights), Split(inputs=(X,), labels=None), [X @ WEIGHTS])


def test_outputs_of_another_shape_are_an_error():
    with pytest.raises(ExportError, match=r"shapes \[\[150, 2\]\], the original's \[\[150, 3\]\]"):
        evaluate(LinearSession(WEIGHTS[:, :2]), Split(inputs=(X,), labels=None), [X @ WEIGHTS])
