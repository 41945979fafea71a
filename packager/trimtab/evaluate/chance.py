"""Whether a compressed model still does better than guessing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.errors import ExportError
from trimtab.evaluate.assessment import Assessment
from trimtab.evaluate.data import Dataset
from trimtab.evaluate.tasks.base import Array
from trimtab_agent.contract.manifest import Figure

_KEPT = 0.1
"""A model that keeps a tenth of what the original is better than a guess is at chance level. A bad
model keeps more, and whether it is good enough is its user's choice."""


def refuse_chance(assessment: Assessment, dataset: Dataset, reference: Sequence[Array]) -> None:
    """Refuses a model that answers no better than a guess where the original does.

    A guess is the most frequent class, or the mean; without labels, of the original's answers.

    Args:
        assessment: Of the compressed model against the original.
        dataset: That it was made on.
        reference: The original's outputs on its test samples.

    Raises:
        ExportError: It is at chance level; the message has the figures.
    """
    figure = assessment.figures[0] if assessment.figures else assessment.agreement
    if figure is None:
        return
    best = 1.0 if figure is assessment.agreement else figure.reference
    chance = _chance(figure, dataset, reference)
    if chance is None or best is None or not _is_better(figure, best, chance):
        return
    if figure.value <= chance + _KEPT * (best - chance) and _is_certain(figure, best, chance):
        raise ExportError(
            f"the compressed model is at chance level: {figure.name} is {figure.value:.3f} where a "
            f"guess has {chance:.3f} and the original {best:.3f}, on {assessment.samples} samples. "
            "Compress less, or train afterwards (fine_tune, distil)"
        )


def _is_better(figure: Figure, best: float, chance: float) -> bool:
    """Says whether the original is better than a guess beyond doubt."""
    interval = figure.reference_interval
    return (best if interval is None else interval[0]) > chance


def _is_certain(figure: Figure, best: float, chance: float) -> bool:
    """Says whether there were samples enough: it is nearer to a guess than to the original."""
    return figure.interval is None or figure.interval[1] < (chance + best) / 2


def _chance(figure: Figure, dataset: Dataset, reference: Sequence[Array]) -> float | None:
    """Returns what a guess has of a figure; None where nothing is known."""
    if figure.name in ("r2", "r2_to_original"):
        return 0.0
    if figure.name == "top1" and dataset.test.labels is not None:
        return _share_of_most_frequent(dataset.test.labels)
    if figure.name == "same_top1":
        scores = reference[0].reshape(len(reference[0]), -1)
        if scores.shape[1] > 1:
            return _share_of_most_frequent(scores.argmax(axis=1))
    return None


def _share_of_most_frequent(classes: Array) -> float:
    _, counts = np.unique(classes, return_counts=True)
    return float(counts.max() / counts.sum())
