"""Codes and scales of groups of weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compress.weight_grid import Groups, fit

bits_ = st.sampled_from([8, 4, 2, 1])
groups_ = st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(0, 999)).map(
    lambda drawn: np.random.default_rng(drawn[2]).normal(0.1, 1, drawn[:2]).astype(np.float32)
)


def error(groups: np.ndarray, stored: Groups) -> np.ndarray:
    return np.square(stored.values() - groups).sum(axis=1)


@given(groups_, bits_, st.booleans())
def test_codes_fit_their_bits_and_zero_is_zero(
    groups: np.ndarray, bits: int, symmetric: bool
) -> None:
    groups[:, ::3] = 0
    stored = fit(groups, bits, symmetric=symmetric)
    if bits == 1:
        low, high = -1, 1
    elif symmetric:
        low, high = 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    else:
        low, high = 0, 2**bits - 1
    assert low <= stored.codes.min()
    assert stored.codes.max() <= high
    assert (stored.scales > 0).all()
    assert (stored.values()[groups == 0] == 0).all()
    if symmetric:
        assert not stored.zero_points.any()


@given(groups_, st.sampled_from([8, 4, 2]), st.booleans())
def test_searched_scale_is_no_worse_than_the_full_range(
    groups: np.ndarray, bits: int, symmetric: bool
) -> None:
    stored = fit(groups, bits, symmetric=symmetric)
    if symmetric:
        step = np.abs(groups).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        full = np.rint(groups / step) * step
        assert (error(groups, stored) <= np.square(full - groups).sum(axis=1) * 1.0001 + 1e-9).all()
    else:
        extent = np.maximum(groups.max(axis=1), 0) - np.minimum(groups.min(axis=1), 0)
        assert (error(groups, stored) <= groups.shape[1] * (extent / (2**bits - 1)) ** 2).all()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(8, 0.83e-4), (4, 0.0131), (2, 0.1902), (1, 0.3634)],
)
def test_error_on_normal_weights_is_that_of_the_best_uniform_steps(
    bits: int, expected: float
) -> None:
    """The best with 3 levels and with 2 leaves 0.1902 and 0.3634 (Max 1960, table 1)."""
    groups = np.random.default_rng(0).normal(size=(4, 20000)).astype(np.float32)
    stored = fit(groups, bits, symmetric=True)
    assert error(groups, stored).mean() / 20000 == pytest.approx(expected, rel=0.02)


def test_a_zero_point_pays_where_weights_lean_to_one_side() -> None:
    groups = np.random.default_rng(0).uniform(-0.1, 1, (4, 500)).astype(np.float32)
    leaning = error(groups, fit(groups, 4, symmetric=False)).sum()
    assert leaning < 0.5 * error(groups, fit(groups, 4, symmetric=True)).sum()


def test_groups_of_zeros_stay_zero() -> None:
    stored = fit(np.zeros((2, 5), np.float32), 4, symmetric=False)
    np.testing.assert_array_equal(stored.values(), 0)


def test_large_tensors_are_fitted_in_pieces_and_alike() -> None:
    groups = np.random.default_rng(0).normal(size=(3, 600_000)).astype(np.float32)
    whole = fit(groups, 2, symmetric=True)
    for row in range(3):
        alone = fit(groups[row : row + 1], 2, symmetric=True)
        np.testing.assert_array_equal(alone.scales, whole.scales[row : row + 1])
