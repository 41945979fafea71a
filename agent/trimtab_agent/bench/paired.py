"""The ratio of two versions' figures from turns that they took in pairs, with its interval.

Whatever slows the machine for a while slows both turns of a pair, so the ratio within a pair says
more than two figures taken one after the other. If the two versions are equally fast, either turn
of a pair may be the slower one: the logarithm of the ratio is symmetric about zero, whatever its
distribution. That is all that Wilcoxon's signed-rank statistic needs, and its exact distribution
gives the interval that belongs to Hodges and Lehmann's estimate (Hollander, Wolfe and Chicken,
Nonparametric Statistical Methods, 3rd ed., 3.2 and 3.3). It is exact for a handful of pairs,
where a bootstrap is too narrow, and a pair that was disturbed hardly moves it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from trimtab_agent.bench.statistics import CONFIDENCE

MIN_PAIRS = 6
"""With fewer no interval has 95 %: all five pairs lean to one side in 1 of 16 equal versions."""


def ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Returns Hodges and Lehmann's estimate of the ratio: the median of the pairs' mean ratios.

    Args:
        pairs: Figures of the new and of the running version, turn by turn.

    Returns:
        The ratio; None if there is no pair, or a figure that is not above zero has no ratio.
    """
    averages = _walsh_averages(pairs)
    return math.exp(median(averages)) if averages else None


def ratio_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Returns the interval that holds the ratio with at least 95 % confidence.

    Args:
        pairs: As for `ratio`.

    Returns:
        Both ends; None with fewer than `MIN_PAIRS` pairs, or if there is no ratio.
    """
    averages = _walsh_averages(pairs)
    rank = interval_rank(len(pairs))
    if not averages or rank is None:
        return None
    return math.exp(averages[rank - 1]), math.exp(averages[-rank])


def interval_rank(pairs: int) -> int | None:
    """Returns which of the ordered averages bound the interval, counted from 1 from either end.

    The signed-rank statistic of n pairs is the sum of those of the ranks 1 to n whose signs are
    plus, and every choice of signs is equally likely.
    """
    ways = [1]  # by value of the statistic
    for rank in range(1, pairs + 1):
        longer = ways + [0] * rank
        for value, count in enumerate(ways):
            longer[value + rank] += count
        ways = longer
    tail = (1 - CONFIDENCE) / 2 * 2**pairs
    below, found = 0, 0
    for count in ways:
        below += count
        if below > tail:
            break
        found += 1
    return found or None


def _walsh_averages(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Returns the means of every two log ratios, each with itself included, ascending."""
    if any(new <= 0 or running <= 0 for new, running in pairs):
        return []
    logs = [math.log(new / running) for new, running in pairs]
    return sorted(
        (first + second) / 2 for index, first in enumerate(logs) for second in logs[index:]
    )
