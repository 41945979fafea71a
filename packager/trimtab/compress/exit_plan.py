"""When to trust an exit: the threshold, and what it saves on held-back samples. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.compress.exit_points import Point
from trimtab.graph.exits import Head

Array = NDArray[Any]


@dataclass(frozen=True)
class Choice:
    """The threshold, and what it does on held-back samples.

    Attributes:
        threshold: Probability above which a head is trusted; above 1 no head ever is.
        shares: Of samples that leave at each exit.
        score: Accuracy, or agreement with the whole model, with exits.
        whole: The same without.
    """

    threshold: float
    shares: tuple[float, ...]
    score: float
    whole: float


@dataclass(frozen=True)
class Plan:
    """Exits that may be put in.

    Attributes:
        points: Where they are.
        heads: One for each.
        choice: The threshold, and what it does.
    """

    points: Sequence[Point]
    heads: Sequence[Head]
    choice: Choice

    def average_macs(self, whole: int) -> float:
        """Returns the mean multiply-accumulates of a held-back sample, heads included.

        Args:
            whole: Those of the whole model.
        """
        total, asked, inside = 0.0, 0, 1.0
        for point, head, share in zip(self.points, self.heads, self.choice.shares, strict=True):
            asked += head.matrix.size
            total += share * (point.macs + asked)
            inside -= share
        return total + inside * (whole + asked)


def choose_threshold(asked: Sequence[Array], whole: Array, goal: Array, max_drop: float) -> Choice:
    """Finds the lowest threshold from which on, however high, no more than allowed is lost.

    Args:
        asked: Probabilities of each head, shape (samples, classes).
        whole: Answers of the whole model, the same shape.
        goal: Right classes, shape (samples).
        max_drop: The share of samples that may be answered wrongly in addition.
    """
    best = [head.max(axis=1) for head in asked]
    right = [head.argmax(axis=1) == goal for head in asked]
    right_at_end = whole.argmax(axis=1) == goal
    allowed = right_at_end.sum() - max_drop * len(goal)
    threshold = 2.0
    for candidate in np.unique(np.concatenate(best))[::-1]:
        # Leaving asks for more than the threshold, so this is the one just below.
        lower = float(np.nextafter(np.float32(candidate), np.float32(0)))
        if _taken(best, right, right_at_end, lower)[0].sum() < allowed:
            break
        threshold = lower
    outcome, shares = _taken(best, right, right_at_end, threshold)
    return Choice(threshold, shares, float(outcome.mean()), float(right_at_end.mean()))


def _taken(
    best: Sequence[Array], right: Sequence[Array], at_end: Array, threshold: float
) -> tuple[Array, tuple[float, ...]]:
    """Returns which samples are answered rightly, and how many leave at each exit."""
    outcome, inside = at_end.copy(), np.ones(len(at_end), np.bool_)
    shares = []
    for sureness, correct in zip(best, right, strict=True):
        leaves = inside & (sureness > threshold)
        outcome[leaves] = correct[leaves]
        inside &= ~leaves
        shares.append(float(leaves.mean()))
    return outcome, tuple(shares)
