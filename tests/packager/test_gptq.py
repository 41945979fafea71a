"""Rounding with compensation: never worse where it counts, and the grid's rules kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compress.gptq import fit_compensated, round_compensated
from trimtab.compress.weight_grid import Bits, fit


def problem(seed: int, rows: int, columns: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and moments of inputs that have half as many directions as columns."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(rows * parts, columns))
    x = rng.normal(size=(parts, 300, columns // 2)) @ rng.normal(
        size=(parts, columns // 2, columns)
    )
    return weights, np.matmul(x.transpose(0, 2, 1), x)


def output_error(weights: np.ndarray, moments: np.ndarray, values: np.ndarray) -> float:
    lost = (values.reshape(weights.shape) - weights).reshape(len(moments), -1, weights.shape[1])
    return float(np.einsum("goi,gij,goj->", lost, moments, lost))


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("parts", [1, 3])
def test_outputs_are_nearer_than_rounded_to_nearest(
    bits: Bits, symmetric: bool, size: int, parts: int
) -> None:
    weights, moments = problem(0, 16, 32, parts)
    nearest = fit(weights.reshape(-1, size), bits, symmetric=symmetric)
    made_good = fit_compensated(weights, moments, size, bits, symmetric=symmetric)
    before, after = (output_error(weights, moments, each.values()) for each in (nearest, made_good))
    assert after < 0.7 * before


@given(st.integers(0, 1000), st.sampled_from([4, 2]), st.booleans())
def test_codes_fit_their_bits_and_zeros_stay(seed: int, bits: Bits, symmetric: bool) -> None:
    weights, moments = problem(seed, 4, 8, 1)
    weights[np.random.default_rng(seed).random(weights.shape) < 0.4] = 0
    found = fit_compensated(weights, moments, 4, bits, symmetric=symmetric)
    low, high = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert found.codes.min() >= low
    assert found.codes.max() <= high
    assert not found.values().reshape(weights.shape)[weights == 0].any()


def test_inputs_that_were_never_seen_do_no_harm() -> None:
    weights, _ = problem(1, 4, 8, 1)
    nearest = fit(weights, 4, symmetric=True)
    found = fit_compensated(weights, np.zeros((1, 8, 8)), 8, 4, symmetric=True)
    np.testing.assert_array_equal(found.values(), nearest.values())


@pytest.mark.parametrize(("rows", "columns", "parts"), [(16, 150, 1), (1, 9, 24), (4, 36, 3)])
def test_settled_scales_lose_less_than_to_nearest_and_zeros_stay(
    rows: int, columns: int, parts: int
) -> None:
    weights, moments = problem(2, rows, columns, parts)
    steps = weights / np.abs(weights).max(axis=1, keepdims=True) * 20
    steps[np.random.default_rng(2).random(steps.shape) < 0.2] = 0
    codes = round_compensated(steps, moments, 20)
    assert np.abs(codes).max() <= 20
    assert not codes[steps == 0].any()
    np.testing.assert_array_equal(codes, np.rint(codes))
    assert output_error(steps, moments, codes) < 0.8 * output_error(steps, moments, np.rint(steps))
