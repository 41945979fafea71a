"""Metrics and evaluation: properties over random scores, and a session with known faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ExportError
from trimtab.evaluate import metrics
from trimtab.evaluate.data import Dataset, Split
from trimtab.evaluate.evaluate import assess
from trimtab.search.units import show_accuracy
from trimtab.search.verdict import largest_drop


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


def linear(weights: np.ndarray):
    """A model that multiplies its input by a matrix."""
    return lambda arrays: [arrays[0] @ weights]


def data(x: np.ndarray, labels: np.ndarray | None, **options) -> Dataset:
    split = Split(inputs=(x,), labels=labels, **options)
    return Dataset(source="here", train=split, test=split)


X = np.random.default_rng(3).normal(size=(150, 4)).astype(np.float32)
WEIGHTS = np.random.default_rng(4).normal(size=(4, 3)).astype(np.float32)
LABELS = (X @ WEIGHTS).argmax(axis=1)


def test_evaluation_with_labels():
    labels = LABELS.copy()
    labels[:15] = (labels[:15] + 1) % 3
    calls = []
    result = assess(
        linear(WEIGHTS * 2),
        data(X, labels),
        [X @ WEIGHTS],
        "classification",
        progress=lambda done, total: calls.append((done, total)),
    ).summary()
    assert (result.metric, result.samples, result.agreement) == ("top1", 150, 1.0)
    assert result.value == result.reference == pytest.approx(0.9)
    assert result.max_abs_error == pytest.approx(np.abs(X @ WEIGHTS).max(), rel=1e-5)
    assert (result.p_value, result.harmed, result.task) == (1.0, (), "classification")
    assert result.interval[0] < 0.9 < result.interval[1]
    assert result.change_interval[0] < 0 < result.change_interval[1]
    assert calls == [(64, 150), (128, 150), (150, 150)]


def test_evaluation_without_labels_claims_no_accuracy():
    found = assess(linear(-WEIGHTS), data(X, None), [X @ WEIGHTS], "classification")
    result = found.summary()
    assert result.metric is result.value is result.reference is result.harmed is None
    assert result.agreement is not None
    assert result.agreement < 0.5
    assert result.agreement_metric == "same_top1"


def test_a_model_alone_has_figures_and_no_agreement():
    found = assess(linear(WEIGHTS), data(X, LABELS), None, "classification")
    assert [figure.name for figure in found.figures] == ["top1"]
    assert found.figures[0].value == 1
    assert found.agreement is found.max_abs_error is found.effects is None
    assert found.figures[0].reference is found.figures[0].p_value is None


def test_outputs_that_are_not_finite_are_an_error():
    weights = WEIGHTS.copy()
    weights[0, 0] = np.nan
    with pytest.raises(ExportError, match="has 64 values that are not finite, of 192"):
        assess(linear(weights), data(X, None), [X @ WEIGHTS], "classification")


def test_outputs_of_another_shape_are_an_error():
    with pytest.raises(ExportError, match=r"shapes \[\[2\]\] per sample, the original's \[\[3\]\]"):
        assess(linear(WEIGHTS[:, :2]), data(X, None), [X @ WEIGHTS], "classification")


def test_only_counted_answers_bound_the_loss():
    unlabelled = assess(linear(WEIGHTS), data(X, None), [X @ WEIGHTS], "classification").summary()
    numbers = assess(linear(WEIGHTS), data(X, None), [X @ WEIGHTS], "regression").summary()
    assert largest_drop(unlabelled) == 0
    assert largest_drop(numbers) is None
    assert show_accuracy(unlabelled) == "agrees 100.0 %"
    assert show_accuracy(numbers) == "agrees 1.0000 r2_to_original"


def test_a_figure_that_is_no_share_is_shown_with_its_name():
    result = assess(linear(WEIGHTS), data(X, X @ WEIGHTS), [X @ WEIGHTS], "regression").summary()
    assert show_accuracy(result) == "1.0000 r2"
