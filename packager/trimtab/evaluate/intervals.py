"""95 % intervals: closed forms for shares, the bootstrap for everything else. Pure.

A statistic is given as a function of counts: `counts[draw, sample]` says how often a resample has
taken each sample. Two models are resampled with the same counts, because they saw the same
samples: the interval of their difference is then as narrow as the pairs allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Interval = tuple[float, float]
Statistic = Callable[[Array], Array]
"""From counts of shape `[draws, samples]` to one figure per draw."""

DRAWS = 1999
"""With one more than a round number, quantiles fall between two draws."""
_SEED = 0
_BLOCK_CELLS = 250_000
"""Counts made at a time: 2 MB stay in a processor's cache, and few lie in memory at once."""
_Z95 = 1.959963984540054
"""The 97.5th percentile of the normal distribution: 2.5 % lie outside on each side."""


def wilson_interval(share: float, samples: int) -> Interval:
    """Returns the 95 % interval of a share that was counted over independent samples.

    Wilson's score interval (E. B. Wilson, JASA 22, 1927), which stays inside 0 to 1 and holds
    for shares near 1, where the textbook one does not.

    Args:
        share: Successes over samples, 0 to 1.
        samples: How many samples, at least 1.
    """
    z2 = _Z95**2 / samples
    centre = (share + z2 / 2) / (1 + z2)
    half = _Z95 * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_share_interval(right: Array, reference: Array) -> Interval:
    """Returns the 95 % interval of the difference of two shares over the same samples.

    R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10: the two Wilson
    intervals, combined by the correlation of the pairs. Unlike the textbook interval it does not
    vanish where the pairs are all alike.

    Args:
        right: Whether the first model was right, bool, shape `[samples]`.
        reference: Whether the second was, on the same samples.

    Returns:
        The interval of the first share less the second.
    """
    n = len(right)
    both = int((right & reference).sum())
    neither = int((~right & ~reference).sum())
    gained, lost = int((right & ~reference).sum()), int((~right & reference).sum())
    p1, p2 = (both + gained) / n, (both + lost) / n
    (low1, high1), (low2, high2) = wilson_interval(p1, n), wilson_interval(p2, n)
    phi = _corrected_phi(both, gained, lost, neither)
    down1, up1, down2, up2 = p1 - low1, high1 - p1, p2 - low2, high2 - p2
    low = math.sqrt(max(0.0, down1**2 - 2 * phi * down1 * up2 + up2**2))
    high = math.sqrt(max(0.0, up1**2 - 2 * phi * up1 * down2 + down2**2))
    return max(-1.0, p1 - p2 - low), min(1.0, p1 - p2 + high)


def _corrected_phi(both: int, gained: int, lost: int, neither: int) -> float:
    """Returns the correlation of two yes-or-no answers, drawn towards zero as method 10 does."""
    n = both + gained + lost + neither
    sides = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if sides == 0:
        return 0.0
    product = both * neither - gained * lost
    if product > n / 2:
        return (product - n / 2) / math.sqrt(sides)
    return 0.0 if product >= 0 else product / math.sqrt(sides)


def bootstrap(statistics: Sequence[Statistic], samples: int, *, draws: int = DRAWS) -> Array:
    """Resamples the samples with replacement; the same resamples for every statistic.

    B. Efron, Annals of Statistics 7 (1979). The seed is fixed: the same samples give the same
    interval.

    Args:
        statistics: What to compute of every resample.
        samples: How many samples there are.
        draws: How many resamples.

    Returns:
        Shape `[len(statistics), draws]`; NaN where a statistic is undefined for a resample.
    """
    results = [
        [statistic(counts) for statistic in statistics] for counts in _resamples(samples, draws)
    ]
    return np.concatenate([np.stack(block) for block in results], axis=1)


def percentile_interval(values: Array, samples: int) -> Interval | None:
    """Returns the 95 % interval from a statistic's resamples.

    Percentiles, moved outwards for small samples, of which the plain ones are too narrow (T.
    Hesterberg, The American Statistician 69 (2015), 371-386, section 3.3, "expanded").

    Args:
        values: One per draw.
        samples: How many samples there were.

    Returns:
        None when the statistic is undefined for every resample, or there is one sample only.
    """
    values = values[np.isfinite(values)]
    if not len(values) or samples < 2:
        return None
    wide = _student_quantile(samples - 1) * math.sqrt(samples / (samples - 1))
    tail = NormalDist().cdf(-wide)
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _resamples(samples: int, draws: int) -> Iterator[Array]:
    generator = np.random.default_rng(_SEED)
    block = max(1, _BLOCK_CELLS // samples)
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        taken = generator.integers(0, samples, (rows, samples))
        taken += np.arange(rows)[:, None] * samples
        counts = np.bincount(taken.ravel(), minlength=rows * samples)
        yield counts.reshape(rows, samples).astype(np.float64)


def _student_quantile(freedom: int) -> float:
    """Returns the 97.5th percentile of Student's t, by its expansion about the normal one.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5; right to 1 % from 3
    degrees of freedom, and beyond any use of a bootstrap below.
    """
    z, v = _Z95, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / v**power for power, term in enumerate(terms, start=1))
