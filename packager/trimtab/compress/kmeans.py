"""K-means in one dimension: the few values that stand for many weights with the least error.

Lloyd's iteration from centres spread evenly between the least and the largest value, which keeps
the few large weights that matter most apart (Han et al. 2016, arXiv:1510.00149, section 3.2).

In one dimension a cluster is an interval, so that values need no distances: they are summed up
once in sorted bins, and each iteration works on sums over runs of bins. With as many values as
bins or fewer, every value is a bin and the iteration is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BINS = 1 << 16
"""A bin of a large tensor is this share of its range: finer than any 256 centres can tell."""

_ITERATIONS = 300


@dataclass(frozen=True)
class Summary:
    """Values in sorted bins.

    Attributes:
        middles: Mean of a bin's values, rising, float64.
        counts: How many values a bin has, at least 1.
    """

    middles: NDArray[np.float64]
    counts: NDArray[np.int64]


def summarise(arrays: Iterable[Array]) -> Summary:
    """Sums up the values of some arrays in at most `BINS` bins.

    Args:
        arrays: Finite values of any shape; read twice, one array after the other.
    """
    arrays = list(arrays)
    if sum(array.size for array in arrays) <= BINS:
        values = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
        middles, counts = np.unique(values, return_counts=True)
        return Summary(middles, counts)
    low = min(float(array.min()) for array in arrays)
    width = (max(float(array.max()) for array in arrays) - low) / BINS or 1.0
    counts, sums = np.zeros(BINS, np.int64), np.zeros(BINS)
    for array in arrays:
        flat = array.ravel()
        bins = np.minimum(((flat - np.float32(low)) / np.float32(width)).astype(np.int32), BINS - 1)
        counts += np.bincount(bins, minlength=BINS)
        sums += np.bincount(bins, weights=flat, minlength=BINS)
    filled = counts > 0
    return Summary(sums[filled] / counts[filled], counts[filled])


def centres(summary: Summary, clusters: int) -> NDArray[np.float32]:
    """Finds the centres of clusters.

    A centre that no value is nearest to, as between a few outliers and the rest, is put to use
    where the error is largest: the cluster there is split.

    Args:
        summary: The values.
        clusters: How many at most.

    Returns:
        Distinct centres, rising, at least one if there is a value.
    """
    if summary.middles.size <= clusters:
        return np.unique(summary.middles.astype(np.float32))
    bins = _Sums(summary)
    found = np.linspace(summary.middles[0], summary.middles[-1], clusters)
    for _ in range(_ITERATIONS):
        means, errors, members = bins.clusters(found)
        moved = _split(means, errors, members, clusters - means.size)
        if moved.size == found.size and np.array_equal(moved, found):
            break
        found = moved
    return np.unique(bins.clusters(found)[0].astype(np.float32))


class _Sums:
    """Sums over runs of bins, by differences of running sums."""

    def __init__(self, summary: Summary) -> None:
        self._middles, counts = summary.middles, summary.counts
        weighted = self._middles * counts
        terms = np.stack([counts, weighted, weighted * self._middles])
        self._running = np.concatenate([np.zeros((3, 1)), np.cumsum(terms, axis=1)], axis=1)

    def clusters(self, centres_: Array) -> tuple[Array, Array, Array]:
        """Returns mean, squared error and number of values of each cluster that has some."""
        borders = np.searchsorted(self._middles, (centres_[:-1] + centres_[1:]) / 2)
        edges = np.concatenate([[0], borders, [self._middles.size]])
        members, sums, squares = np.diff(self._running[:, edges], axis=1)
        filled = members > 0
        means = sums[filled] / members[filled]
        errors = np.maximum(squares[filled] - sums[filled] * means, 0)
        errors[np.diff(edges)[filled] == 1] = 0  # what differences of sums leave of one bin
        return means, errors, members[filled]


def _split(means: Array, errors: Array, members: Array, missing: int) -> Array:
    """Replaces the clusters with the largest errors by two each, a deviation off their means."""
    missing = min(missing, int(np.count_nonzero(errors)))
    if missing == 0:
        return means
    worst = np.argsort(errors)[-missing:]
    deviations = np.sqrt(errors[worst] / members[worst])
    halves = [means[worst] - deviations, means[worst] + deviations]
    return np.sort(np.concatenate([np.delete(means, worst), *halves]))


def nearest(values: Array, centres_: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replaces every value by the centre nearest to it, the upper one of two as near."""
    lower, upper = centres_[:-1], centres_[1:]
    # Between two neighbouring float32 there is no third: the border must still be above the lower.
    borders = np.maximum((lower + upper) / 2, np.nextafter(lower, upper))
    shared: NDArray[np.float32] = centres_[np.searchsorted(borders, values, side="right")]
    return shared
