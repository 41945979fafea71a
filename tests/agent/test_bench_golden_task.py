"""Golden samples with labels: the task's figure on the device, and what it catches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_agent.bench import golden
from trimtab_agent.bench.task_metric import score
from trimtab_agent.contract.manifest import Golden, GoldenTask, TensorSpec
from trimtab_agent.errors import AccuracyError, FormatError, GoldenError


class Model:
    """A classifier whose scores are its inputs, through a function; a batch of one each run."""

    inputs = (TensorSpec(name="x", shape=(None, 3), dtype="float32"),)
    outputs = (TensorSpec(name="scores", shape=(None, 3), dtype="float32"),)

    def __init__(self, answer=lambda x: x):
        self.answer = answer

    def run(self, arrays):
        return [self.answer(arrays[0]).astype(np.float32)]


LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
SCORES = np.eye(3, dtype=np.float32)[LABELS]
TOP1 = GoldenTask(metric="top1", value=1.0, limit=0.8)


def check(model: Model, *, labels=LABELS, task=TOP1, limit: float = 0.1, answers=SCORES):
    samples = golden.Samples(inputs=[SCORES], outputs=[answers], labels=labels)
    entry = Golden(path="golden.npz", count=len(SCORES), max_abs_error=limit, task=task)
    return golden.check(model, samples, entry)


def test_a_right_model_passes_with_its_figure():
    found = check(Model())
    assert (found.max_abs_error, found.task.value, found.task.host_value) == (0.0, 1.0, 1.0)
    assert check(Model(), task=None).task is None


def test_swapped_labels_are_refused_though_every_output_is_as_promised():
    swapped = np.array([1, 0, 2])[LABELS]
    with pytest.raises(AccuracyError, match=r"top1 on the golden samples is 0.25 here; the pack"):
        check(Model(), labels=swapped)


def test_a_tolerance_that_is_too_wide_does_not_let_wrong_classes_through():
    with pytest.raises(AccuracyError, match="top1"):
        check(Model(lambda x: x[:, ::-1]), limit=1.0)


def test_outputs_of_another_sample_are_refused():
    with pytest.raises(GoldenError, match=r"output 0 .scores. differs by 1 in golden sample 0"):
        check(Model(), answers=np.roll(SCORES, 1, axis=0))


def test_a_model_that_answers_by_the_order_of_samples_is_refused():
    answers = iter([*SCORES, *SCORES])
    with pytest.raises(GoldenError, match=r"keeps something from one run to the next.*backwards"):
        check(Model(lambda _: next(answers)[None]))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: 2 * x, "differs by 1 in golden sample 0"),
        (lambda x: x * np.float32(np.nan), "is NaN or infinite in golden sample 0"),
        (lambda x: x / np.float32(0.0) if x[0, 2] else x, "is NaN or infinite in golden sample 2"),
        (lambda x: x[:, :2], r"has the shape \(8, 2\), not \(8, 3\)"),
    ],
    ids=["scale", "nan", "infinite", "shape"],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_models_that_are_wrong(answer, message):
    with pytest.raises(GoldenError, match=message):
        check(Model(answer))


def test_labels_that_are_promised_must_be_there():
    with pytest.raises(FormatError, match=r"golden.npz has no labels; the manifest promises top1"):
        check(Model(), labels=None)


@pytest.mark.parametrize(
    ("metric", "output", "labels", "threshold", "value"),
    [
        ("top1", [[0.1, 0.9], [0.8, 0.2]], [1, 1], None, 0.5),
        ("top1", [[[0.1, 0.9]], [[0.8, 0.2]]], [1, 0], None, 1.0),
        ("top1", [[0.6], [0.4]], [1, 1], 0.5, 0.5),
        ("top1", [0.6, -0.4], [1, 0], 0.0, 1.0),
        ("token_accuracy", [[[1, 0], [0, 1], [1, 0]]], [[0, 0, -1]], None, 0.5),
        ("rmse", [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 0.0]], None, 2.0),
        ("rmse", [[1.0], [3.0]], [1.0, 3.0], None, 0.0),
    ],
)
def test_figures(metric, output, labels, threshold, value):
    found = score(metric, np.array(output), np.array(labels), threshold=threshold)
    assert found == pytest.approx(value)


@pytest.mark.parametrize(
    ("metric", "output", "labels", "message"),
    [
        ("top1", np.ones((2, 3)), np.ones((2, 3), int), r"do not fit the output \(2, 3\).*top1"),
        ("top1", np.ones((2, 3)), np.ones(2), "float64"),
        ("rmse", np.ones((2, 3)), np.ones((2, 2)), "rmse"),
        ("rmse", np.ones((2, 3)), np.array([["a"] * 3] * 2), "<U1"),
        ("token_accuracy", np.ones((1, 2, 3)), np.array([[-1, -1]]), "padding and nothing else"),
    ],
)
def test_labels_that_do_not_fit(metric, output, labels, message):
    with pytest.raises(FormatError, match=message):
        score(metric, output, labels, threshold=None)


@given(value=st.floats(), limit=st.floats(allow_nan=False))
def test_a_figure_that_is_not_a_number_is_never_accepted(value, limit):
    for metric, good in (("top1", value >= limit), ("rmse", value <= limit)):
        task = GoldenTask(metric=metric, value=limit, limit=limit)
        assert task.accepts(value) == good
        assert not task.accepts(float("nan"))
