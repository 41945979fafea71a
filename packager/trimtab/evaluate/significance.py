"""Is it chance? Tests for two models on the same samples, and for a part against the rest. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_PERMUTATIONS = 1999
_PERMUTATIONS_PER_PART = 100
"""At least so many for each part: the correction for many parts asks for small p-values, and the
smallest that can be shown is one over the number of permutations."""
_SEED = 0
_GRID_CELLS = 4_000_000
"""Terms that the exact test of a part adds up at most; above, it draws permutations."""


def mcnemar(right: Array, reference: Array) -> float:
    """Returns the exact two-sided p-value that two models are right equally often.

    Q. McNemar, Psychometrika 12 (1947), with the binomial distribution in place of chi-squared:
    only the samples on which one is right and the other wrong tell the models apart, and if
    neither is better, each of these is a toss of a coin.

    Args:
        right: Whether the first model was right, bool, shape `[samples]`.
        reference: Whether the second was.
    """
    gained, lost = int((right & ~reference).sum()), int((~right & reference).sum())
    return _coin(min(gained, lost), gained + lost)


def bootstrap_p_value(differences: Array) -> float | None:
    """Returns the two-sided p-value that a difference is zero, from its resamples.

    The smallest level at which the percentile interval leaves zero out (B. Efron and R.
    Tibshirani, An Introduction to the Bootstrap, 1993, section 15.4). With one added to both
    counts it is never 0, which no number of draws could show.

    Args:
        differences: One per draw; NaN where undefined.

    Returns:
        None when every draw is undefined.
    """
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return None
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1))


def part_p_values(loss: Array, part: Array, parts: int) -> Array:
    """Returns one-sided p-values that each part loses no more than the others.

    A permutation test: if the part a sample belongs to has no bearing on what it loses, every
    assignment of the losses to the samples was as likely as the one seen. Where losses are -1, 0
    and 1 (right answers lost or gained), the probability is computed exactly.

    Args:
        loss: What each sample lost by compression, shape `[samples]`.
        part: Which part each sample belongs to, 0 to `parts - 1`.
        parts: How many parts.
    """
    sizes = np.bincount(part, minlength=parts)
    gained, lost = int((loss == -1).sum()), int((loss == 1).sum())
    countable = gained + lost + int((loss == 0).sum()) == len(loss)
    grid = min(gained, int(sizes.max())) * min(lost, int(sizes.max()))
    if not countable or grid > _GRID_CELLS:
        return _permuted_p_values(loss, part, sizes)
    net = np.bincount(part, weights=loss, minlength=parts)
    return np.array(
        [
            _net_loss_p_value(round(float(seen)), int(size), lost, gained, len(loss))
            for seen, size in zip(net, sizes, strict=True)
        ]
    )


def holm(p_values: Sequence[float] | Array) -> Array:
    """Returns p-values that hold for all of several hypotheses together.

    S. Holm, Scandinavian Journal of Statistics 6 (1979): as strict as Bonferroni's correction
    for the smallest, less so for the others, and as safe.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty(len(p))
    result[order] = np.minimum(1.0, corrected)
    return result


def _coin(heads: int, tosses: int) -> float:
    """Returns the two-sided p-value of so few heads, from logarithms: 2^-tosses underflows."""
    if 2 * heads >= tosses:
        return 1.0
    log_all = math.lgamma(tosses + 1) - tosses * math.log(2)
    tail = sum(
        math.exp(log_all - math.lgamma(k + 1) - math.lgamma(tosses - k + 1))
        for k in range(heads + 1)
    )
    return min(1.0, 2 * tail)


def _net_loss_p_value(seen: int, size: int, lost: int, gained: int, samples: int) -> float:
    """Returns the probability of a net loss of at least `seen` in `size` samples drawn at random.

    Of `samples`, `lost` count 1 and `gained` count -1. How many of each are drawn follows the
    multivariate hypergeometric distribution.
    """
    log_factorial = _log_factorials(samples)

    def log_choose(n: int, k: Array) -> Array:
        inside = (k >= 0) & (k <= n)
        safe = np.where(inside, k, 0)
        value = log_factorial[n] - log_factorial[safe] - log_factorial[n - safe]
        return np.where(inside, value, -np.inf)

    losses = np.arange(min(lost, size) + 1)[:, None]
    gains = np.arange(min(gained, size) + 1)[None, :]
    log_p = log_choose(lost, losses) + log_choose(gained, gains)
    log_p = log_p + log_choose(samples - lost - gained, size - losses - gains)
    log_p = log_p - log_choose(samples, np.array(size))
    return float(min(1.0, np.exp(log_p[losses - gains >= seen]).sum()))


@lru_cache(maxsize=1)
def _log_factorials(largest: int) -> Array:
    """Returns the logarithms of 0! to `largest`!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, largest + 1)))])


def _permuted_p_values(loss: Array, part: Array, sizes: Array) -> Array:
    """Returns the p-values by drawing permutations; the one seen counts as one of them."""
    generator = np.random.default_rng(_SEED)
    parts = len(sizes)
    seen = np.bincount(part, weights=loss, minlength=parts)
    tolerance = 1e-9 * max(1.0, float(np.abs(loss).sum()))  # sums in another order
    as_large = np.ones(parts)
    draws = max(_PERMUTATIONS, _PERMUTATIONS_PER_PART * parts)
    for _ in range(draws):
        drawn = np.bincount(generator.permutation(part), weights=loss, minlength=parts)
        as_large += drawn >= seen - tolerance
    return as_large / (draws + 1)
