"""Classification: one class per sample, from scores of shape `[samples, classes]`.

A model with one output, shape `[samples]` or `[samples, 1]`, tells two classes apart: class 1
where a probability is above a half, or a logit above zero.
"""

from __future__ import annotations

import numpy as np

from trimtab.evaluate.tasks.base import Array, Batch, Evidence, Measure, ratio

_TOP = 5


class Classification:
    """Top-1, and with more than five classes top-5.

    Args:
        classes: How many; 1 stands for a single output.
        threshold: From which on a single output says class 1.

    Attributes:
        threshold: Likewise.
    """

    name = "classification"
    part_measure: Measure | None = Measure(name="top1", statistic=ratio("right"), outcome="right")
    part_column = "right"
    has_classes = True
    agreement = Measure(name="same_top1", statistic=ratio("same"), outcome="same")

    def __init__(self, classes: int, *, threshold: float = 0.5) -> None:
        self._classes = classes
        self.threshold = threshold

    def observe(self, batch: Batch) -> Evidence:
        """Keeps the answer, and whether it and the best five are right."""
        scores = batch.outputs[0].reshape(len(batch.outputs[0]), -1)
        if scores.shape[1] == 1:
            answers = (scores[:, 0] > self.threshold).astype(np.int64)
        else:
            answers = scores.argmax(axis=1)
        evidence = {"answer": answers}
        if batch.labels is not None:
            evidence["right"] = answers == batch.labels
            if self._classes > _TOP:
                evidence["right5"] = _among_best(scores, batch.labels)
        return evidence

    def measures(self, evidence: Evidence) -> tuple[Measure, ...]:
        """Top-1 and top-5."""
        names = (("top1", "right"), ("top5", "right5"))
        return tuple(
            Measure(name=name, statistic=ratio(column), outcome=column)
            for name, column in names
            if column in evidence
        )

    def agree(self, evidence: Evidence, reference: Evidence) -> Evidence:
        """Whether both give the same class. One less its share bounds the loss of accuracy."""
        return {"same": evidence["answer"] == reference["answer"]}


def _among_best(scores: Array, labels: Array) -> Array:
    """Says whether a label's score is among the best five; of equal scores the first is better."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    better = (scores > own) | ((scores == own) & before)
    among: Array = better.sum(axis=1) < _TOP
    return among
