"""Chooses which channels stay. Pure: scores in, places out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import Literal

import numpy as np
import numpy.typing as npt

Scope = Literal["global", "uniform"]
Scores = npt.NDArray[np.float64]


def allowed_counts(
    classes: int, *, width: int, multiple: int, min_channels: int
) -> tuple[int, ...]:
    """Return how many classes a group may keep, in rising order.

    Args:
        classes: How many it has.
        width: Channels that one class stands for.
        multiple: Channel counts are to be multiples of this.
        min_channels: The fewest channels to keep.

    Returns:
        The counts that give a multiple, and all, which needs no multiple.
    """
    step = multiple // gcd(multiple, width)
    multiples = range(step, classes, step)
    return (*(count for count in multiples if count * width >= min_channels), classes)


def choose(
    scores: Sequence[Scores], allowed: Sequence[Sequence[int]], *, keep: float, scope: Scope
) -> list[npt.NDArray[np.int64]]:
    """Choose which classes of each group stay.

    Args:
        scores: For each group, one number per class; the higher stay.
        allowed: For each group, how many classes it may keep.
        keep: The fraction of all classes to keep, between 0 and 1.
        scope: `uniform`: that fraction of each group. `global`: the best of all groups, which
            takes more from groups that have more weak classes.

    Returns:
        For each group, the places of the kept classes, rising. Each count is the allowed one
        nearest to what the scope asks for, the larger of two as near. Of equal scores the first
        stays.
    """
    if scope == "uniform":
        wanted = [keep * len(group) for group in scores]
    else:
        wanted = _best_of_all(scores, keep)
    return [
        best_places(group, nearest(count, counts))
        for group, count, counts in zip(scores, wanted, allowed, strict=True)
    ]


def best_places(scores: Scores, count: int) -> npt.NDArray[np.int64]:
    """Return the places of the `count` highest scores, rising; of equal ones the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def _best_of_all(scores: Sequence[Scores], keep: float) -> list[float]:
    groups = np.repeat(np.arange(len(scores)), [len(group) for group in scores])
    ranking = np.argsort(-np.concatenate(scores), kind="stable")
    best = groups[ranking[: round(keep * len(ranking))]]
    return [float(count) for count in np.bincount(best, minlength=len(scores))]


def nearest(wanted: float, counts: Sequence[int]) -> int:
    """Return the count nearest to a wanted one, the larger of two as near."""
    return min(counts, key=lambda count: (abs(count - wanted), -count))


def nearest_step(measure: Callable[[int], float], target: float, steps: int) -> int:
    """Find the step at which a rising quantity is nearest to a target, by bisection.

    Args:
        measure: The quantity at a step; it never falls from one step to the next.
        target: What it should be.
        steps: The last step; the first is 0.

    Returns:
        The step; of two as near the lower.
    """
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        if measure(middle) <= target:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda step: abs(measure(step) - target))
