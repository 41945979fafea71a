"""Numbers of the decompositions, against what theory says of them."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compress.decompositions import (
    cp,
    cp_tensor,
    digits_of,
    lost_energy,
    mode_product,
    singular_values,
    svd,
    tails,
    tensor_train,
    train_matrix,
    tucker2,
    unfold,
)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 99))
def test_what_an_svd_loses_is_what_it_discards(rows: int, columns: int, seed: int) -> None:
    matrix = weights(rows, columns, seed=seed)
    expected = tails([np.linalg.svd(matrix, compute_uv=False)])
    for rank in range(1, min(rows, columns) + 1):
        left, right = svd(matrix, rank)
        assert lost_energy(matrix, left @ right) == pytest.approx(expected[rank], abs=1e-9)


def test_tails_of_nothing_are_nothing() -> None:
    assert tails([np.zeros(3)]).tolist() == [0, 0, 0, 0]
    assert tails([np.array([2.0, 1.0])]).tolist() == pytest.approx([1, 0.2, 0])


def full(core: np.ndarray, outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    return mode_product(mode_product(core, outer, 0), inner, 1)


def test_full_tucker_ranks_reproduce_the_kernel() -> None:
    kernel = weights(8, 6, 3, 3)
    np.testing.assert_allclose(full(*tucker2(kernel, (8, 6))), kernel, atol=1e-10)


@given(ranks=st.tuples(st.integers(1, 8), st.integers(1, 6)), seed=st.integers(0, 50))
def test_iteration_loses_no_more_than_the_tails_allow(ranks: tuple[int, int], seed: int) -> None:
    kernel = weights(8, 6, 3, seed=seed)
    bound = sum(tails([singular_values(unfold(kernel, mode))])[ranks[mode]] for mode in (0, 1))
    lost = lost_energy(kernel, full(*tucker2(kernel, ranks)))
    assert lost <= bound + 1e-9


def test_cp_finds_the_products_that_a_tensor_is_made_of() -> None:
    made = [weights(size, 3, seed=size) for size in (8, 6, 5)]
    tensor = cp_tensor(made)
    assert lost_energy(tensor, cp_tensor(cp(tensor, 3))) < 1e-4


def test_cp_of_more_products_loses_less() -> None:
    tensor = weights(6, 5, 3, 3)
    lost = [lost_energy(tensor, cp_tensor(cp(tensor, rank))) for rank in (1, 4, 12, 45)]
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < 1e-4


def test_cp_ends_in_products_of_a_size() -> None:
    """Of a tensor of rank 3 that others of rank 2 come as near to as one likes."""
    a, b = np.eye(2)
    tensor = sum(np.einsum("i,j,k", *t) for t in ((a, a, b), (a, b, a), (b, a, a)))
    factors = cp(tensor, 2)
    lengths = np.prod([np.linalg.norm(factor, axis=0) for factor in factors], axis=0)
    assert lengths.max() < 10 * np.linalg.norm(tensor)
    assert lost_energy(tensor, cp_tensor(factors)) < 0.1
    assert not cp_tensor(cp(np.zeros((2, 2, 2)), 1)).any()


def test_a_full_train_reproduces_the_matrix() -> None:
    matrix = weights(24, 60)
    cores = tensor_train(matrix, (2, 3, 4), (5, 4, 3), 999)
    np.testing.assert_allclose(train_matrix(cores), matrix, atol=1e-10)
    assert [core.shape[0] for core in cores] == [1, 10, 12]


def test_a_train_of_low_rank_finds_low_rank() -> None:
    parts = [weights(1, 4, 4, 2), weights(2, 4, 4, 2, seed=1), weights(2, 4, 4, 1, seed=2)]
    matrix = train_matrix(parts)
    cores = tensor_train(matrix, (4, 4, 4), (4, 4, 4), 2)
    np.testing.assert_allclose(train_matrix(cores), matrix, atol=1e-9)


@given(number=st.integers(1, 5000), count=st.integers(1, 4))
def test_digits_multiply_to_the_number(number: int, count: int) -> None:
    digits = digits_of(number, count)
    assert len(digits) == count
    assert prod(digits) == number
    assert list(digits) == sorted(digits)


def test_digits_are_as_equal_as_can_be() -> None:
    assert digits_of(1024, 3) == (8, 8, 16)
    assert digits_of(784, 2) == (28, 28)
    assert digits_of(7, 3) == (1, 1, 7)
