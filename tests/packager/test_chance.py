"""A model at chance level is refused; a bad one is its user's choice."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.errors import ExportError
from trimtab.evaluate.chance import refuse_chance
from trimtab.evaluate.data import Dataset, Split
from trimtab.evaluate.evaluate import assess

COUNT = 400
RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 4, COUNT)
SCORES = np.eye(4, dtype=np.float32)[LABELS]
INPUTS = RNG.normal(size=(COUNT, 3)).astype(np.float32)


def judge(outputs, reference, labels, task, count=COUNT):
    split = Split(inputs=(INPUTS[:count],), labels=None if labels is None else labels[:count])
    dataset = Dataset(train=split, test=split, task=task, source="test")
    answers = iter(np.array_split(outputs[:count], range(64, count, 64)))
    assessment = assess(lambda _: [next(answers)], dataset, [reference[:count]], task)
    refuse_chance(assessment, dataset, [reference[:count]])


def right_on(share: float) -> np.ndarray:
    """Scores that are right on a share of the samples, and say class 0 on the others."""
    scores = np.tile(np.eye(4, dtype=np.float32)[:1], (COUNT, 1))
    chosen = RNG.permutation(COUNT)[: round(share * COUNT)]
    scores[chosen] = SCORES[chosen]
    return scores


TARGET = INPUTS @ np.array([[1.0], [2.0], [-1.0]], np.float32)
MEAN = np.full_like(TARGET, TARGET.mean())


@pytest.mark.parametrize(
    ("outputs", "reference", "labels", "task", "figure"),
    [
        (right_on(0.0), SCORES, LABELS, "classification", "top1 is 0"),
        (right_on(0.0), SCORES, None, "classification", "same_top1 is 0"),
        (MEAN, TARGET, TARGET, "regression", "r2 is"),
        (MEAN, TARGET, None, "regression", "r2_to_original is"),
    ],
)
def test_model_that_guesses_is_refused(outputs, reference, labels, task, figure):
    with pytest.raises(ExportError, match=f"at chance level: {figure}.*where a guess has"):
        judge(outputs, reference, labels, task)


@pytest.mark.parametrize(
    ("outputs", "reference", "labels", "task", "count"),
    [
        (right_on(0.4), SCORES, LABELS, "classification", COUNT),
        (right_on(0.4), SCORES, None, "classification", COUNT),
        (MEAN + 0.3 * (TARGET - MEAN), TARGET, TARGET, "regression", COUNT),
        # The original guesses too: nothing is lost.
        (right_on(0.0), right_on(0.0), LABELS, "classification", COUNT),
        # Too few samples to be certain.
        (right_on(0.0), SCORES, LABELS, "classification", 3),
    ],
)
def test_model_that_is_merely_bad_passes(outputs, reference, labels, task, count):
    judge(outputs, reference, labels, task, count)
