"""One-dimensional k-means against the plain algorithm, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trimtab.compress.kmeans import BINS, centres, nearest, summarise

arrays = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60).map(
    lambda values: np.array(values, np.float32)
)


def plain_kmeans(values: np.ndarray, clusters: int) -> np.ndarray:
    """Lloyd's iteration by distances, from the same start."""
    found = np.linspace(values.min(), values.max(), clusters)
    for _ in range(300):
        members = np.abs(values[:, None] - found).argmin(axis=1)
        moved = np.array([values[members == k].mean() for k in range(len(found)) if k in members])
        if moved.size == found.size and np.allclose(moved, found, rtol=0, atol=0):
            break
        found = moved
    return found


@given(arrays, st.integers(1, 12))
def test_at_most_so_many_values_each_the_nearest(values: np.ndarray, clusters: int) -> None:
    found = centres(summarise([values]), clusters)
    assert 1 <= found.size <= clusters
    assert (np.diff(found) > 0).all()
    shared = nearest(values, found)
    best = np.abs(values[:, None].astype(np.float64) - found).min(axis=1)
    np.testing.assert_allclose(np.abs(values - shared), best, atol=2e-6)


@example(np.array([0.0, np.nextafter(np.float32(0), np.float32(1))], np.float32))
@given(arrays)
def test_few_values_are_kept_as_they_are(values: np.ndarray) -> None:
    found = centres(summarise([values]), 60)
    np.testing.assert_array_equal(nearest(values, found), values)


@pytest.mark.parametrize("clusters", [2, 5, 10])
def test_finds_what_the_plain_algorithm_finds(clusters: int) -> None:
    values = np.random.default_rng(0).normal(size=2000)
    found = centres(summarise([values]), clusters)
    np.testing.assert_allclose(found, plain_kmeans(values, clusters), rtol=1e-6)


@pytest.mark.parametrize("clusters", [16, 64, 256])
def test_outliers_leave_no_centre_idle(clusters: int) -> None:
    """Weights of trained networks have long tails: most of an even spread lies in the void."""
    values = np.random.default_rng(0).standard_t(3, 20_000).astype(np.float32)
    found = centres(summarise([values]), clusters)
    assert found.size == clusters
    idle = plain_kmeans(values, clusters) if clusters < 256 else found[::2]
    shared, plain = (nearest(values, c.astype(np.float32)) for c in (found, idle))
    assert np.square(values - shared).sum() <= np.square(values - plain).sum()


def test_bins_cost_next_to_nothing() -> None:
    values = np.random.default_rng(0).normal(size=4 * BINS).astype(np.float32)

    def error(found: np.ndarray) -> float:
        return float(np.square(values.astype(np.float64) - nearest(values, found)).mean())

    binned = centres(summarise([values[:BINS], values[BINS:]]), 16)
    exact = centres(summarise([values[:BINS]]), 16)
    assert error(binned) <= error(exact)
    # The best 16 levels for a normal distribution leave 0.009497 of its variance (Max 1960).
    assert error(binned) == pytest.approx(0.0095, rel=0.02)


def test_equal_values_make_one_cluster() -> None:
    np.testing.assert_array_equal(centres(summarise([np.full(BINS + 5, 0.5)]), 8), [0.5])
