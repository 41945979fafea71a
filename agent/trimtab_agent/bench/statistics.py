"""What a sample of latencies allows to say, without assuming any distribution.

Everything rests on one fact: of n independent runs, the number that lie below the true p-quantile
is binomial with n and p. So the k-th smallest run bounds the quantile with a probability that can
be computed (order-statistic intervals: David and Nagaraja, Order Statistics, 3rd ed., 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

CONFIDENCE = 0.95

# The last blocks must agree within this share of their median to call a measurement steady.
_STEADY_BLOCKS = 5
_STEADY_LAST = 3
_STEADY_SHARE = 0.02
_STEADY_BLOCK_RUNS = 5


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns a percentile by nearest rank: a value that was really measured.

    Args:
        ordered: At least one value, ascending.
        share: Between 0 and 1, both excluded: 0.95 is the 95th percentile.
    """
    return ordered[math.ceil(share * len(ordered)) - 1]


def minimum_count(share: float) -> int:
    """Returns how many runs it takes before the slowest bounds a percentile with 95 % confidence.

    With fewer, nothing measured is sure to lie above it: n runs all fall below the percentile with
    probability `share ** n`. Gives 5 for the median, 29 for p90, 59 for p95 and 299 for p99.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share))


def percentile_if_enough(ordered: Sequence[float], share: float) -> float | None:
    """Returns the percentile, or None when there are too few values to say anything of it."""
    return percentile(ordered, share) if len(ordered) >= minimum_count(share) else None


def interval_ranks(count: int, share: float) -> tuple[int | None, int | None]:
    """Returns the ranks, from 1, that enclose a percentile with 95 % confidence, equal tails.

    Args:
        count: Number of values.
        share: The percentile as a share.

    Returns:
        The largest lower rank and the smallest upper rank; None for an end that no rank bounds.
    """
    tail = (1 - CONFIDENCE) / 2
    lower, upper = None, None
    cumulative = 0.0  # P(B < rank)
    for rank in range(1, count + 1):
        cumulative += _binomial(count, share, rank - 1)
        if cumulative <= tail:
            lower = rank
        if cumulative >= 1 - tail:
            upper = rank
            break
    return lower, upper


def interval(ordered: Sequence[float], share: float) -> tuple[float, float] | None:
    """Returns the 95 % confidence interval of a percentile, or None if an end is not bounded.

    Args:
        ordered: Values, ascending.
        share: The percentile as a share.
    """
    lower, upper = interval_ranks(len(ordered), share)
    if lower is None or upper is None:
        return None
    return ordered[lower - 1], ordered[upper - 1]


def is_steady(values: Sequence[float]) -> bool:
    """Says whether runs in order of time had settled.

    The runs are split into five blocks; they are steady if the medians of the last three differ
    by at most 2 %. Too few runs to tell count as not steady.
    """
    size = len(values) // _STEADY_BLOCKS
    if size < _STEADY_BLOCK_RUNS:
        return False
    medians = [
        median(values[index * size : (index + 1) * size])
        for index in range(_STEADY_BLOCKS - _STEADY_LAST, _STEADY_BLOCKS)
    ]
    return max(medians) - min(medians) <= _STEADY_SHARE * median(medians)


def _binomial(count: int, share: float, successes: int) -> float:
    """Returns the binomial probability, by logarithms because the factorials overflow."""
    log_choose = (
        math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    )
    return math.exp(
        log_choose + successes * math.log(share) + (count - successes) * math.log1p(-share)
    )
