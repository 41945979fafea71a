"""Low-rank decompositions of weights. Pure numpy: arrays in, factors out, all in float64.

Errors are squared Frobenius norms, as shares of the weight's own: the *lost energy*.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def lost_energy(weight: Array, approximation: Array) -> float:
    """Return the squared error of an approximation, as a share of the weight's squared norm."""
    whole = float(np.square(weight).sum())
    return float(np.square(weight - approximation).sum()) / whole if whole else 0.0


def tails(singular_values: Sequence[Array]) -> Array:
    """Return for each rank, from 0 to all, the share of the energy that the others hold.

    Args:
        singular_values: Of one matrix, or of several of the same shape that get the same rank.
    """
    squares = np.square(np.array(singular_values, np.float64)).sum(axis=0)
    left = np.concatenate([np.cumsum(squares[::-1])[::-1], [0.0]])
    return left / left[0] if left[0] else left


def singular_values(matrix: Array) -> Array:
    """Return the singular values of a matrix, falling.

    By the Gram matrix of its shorter side, which for a table of 30,000 rows is a hundred times
    faster; its rounding (1e-8 of the largest value) is below what a weight's last bit changes.
    """
    wide = matrix.astype(np.float64)
    gram = wide @ wide.T if len(wide) < wide.shape[1] else wide.T @ wide
    values: Array = np.sqrt(np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None))
    return values


def svd(matrix: Array, rank: int) -> tuple[Array, Array]:
    """Split a matrix into the product of two, the best of their rank (Eckart and Young 1936).

    By the eigenvectors of its shorter side's Gram matrix; see `singular_values`.

    Args:
        matrix: Shape (m, n).
        rank: r, at most the smaller of both.

    Returns:
        Factors of shapes (m, r) and (r, n), each with the square roots of the singular values, so
        that both have the same scale.
    """
    wide = matrix.astype(np.float64)
    if len(wide) < wide.shape[1]:
        left, right = svd(wide.T, rank)
        return right.T, left.T
    basis: Array = np.linalg.eigh(wide.T @ wide)[1][:, ::-1][:, :rank]
    scores: Array = wide @ basis
    lengths = np.linalg.norm(scores, axis=0)
    roots = np.sqrt(np.where(lengths == 0, 1, lengths))
    return scores / roots, roots[:, None] * basis.T


def unfold(tensor: Array, mode: int) -> Array:
    """Lay a tensor out as a matrix whose rows run along one axis."""
    return np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


def mode_product(tensor: Array, matrix: Array, mode: int) -> Array:
    """Multiply a tensor along one axis: shape (..., n, ...) and (m, n) give (..., m, ...)."""
    return np.moveaxis(np.tensordot(matrix, tensor, axes=(1, mode)), 0, mode)


def tucker2(weight: Array, ranks: tuple[int, int], *, sweeps: int = 10) -> tuple[Array, ...]:
    """Decompose a convolution's kernel along its two channel axes.

    Starts from the higher-order SVD (De Lathauwer et al. 2000a) and improves it by higher-order
    orthogonal iteration (De Lathauwer et al. 2000b), as Kim et al. 2016 (arXiv:1511.06530) do.

    Args:
        weight: Shape (out, in, *kernel).
        ranks: Of the output and the input channels.
        sweeps: Passes of the iteration at most; it stops when nothing changes any more.

    Returns:
        Core of shape (rank of out, rank of in, *kernel) and bases of shapes (out, rank of out)
        and (in, rank of in).
    """
    tensor = weight.astype(np.float64)
    outer, inner = (_leading(unfold(tensor, mode), ranks[mode]) for mode in (0, 1))
    energy = -1.0
    for _ in range(sweeps):
        outer = _leading(unfold(mode_product(tensor, inner.T, 1), 0), ranks[0])
        inner = _leading(unfold(mode_product(tensor, outer.T, 0), 1), ranks[1])
        core = mode_product(mode_product(tensor, outer.T, 0), inner.T, 1)
        before, energy = energy, float(np.square(core).sum())
        if energy - before <= 1e-9 * energy:
            break
    return mode_product(mode_product(tensor, outer.T, 0), inner.T, 1), outer, inner


def _leading(matrix: Array, rank: int) -> Array:
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


_RIDGE = 1e-3
"""Of the mean squared norm: what a sum of large products that cancel out is charged."""


def cp(tensor: Array, rank: int, *, seed: int = 0, sweeps: int = 100) -> list[Array]:
    """Write a tensor as a sum of products of vectors, by regularised alternating least squares.

    Lebedev et al. 2015 (arXiv:1412.6553) decompose kernels so. Each sweep solves for one factor
    after another with the rest held (Kolda and Bader 2009, figure 3.3). Plain least squares often
    end in products that grow without bound and cancel each other, and a layer made of these cannot
    be trained (Phan et al. 2020, arXiv:2008.05441, section 3). So the squared norms are charged,
    with factors brought to the same scale before each solution. On the kernels of a trained
    ResNet-8 the products are half as large as without, and the error is no higher. Factors start
    from leading singular vectors, and from random numbers beyond them.

    Args:
        tensor: Of any rank.
        rank: How many products.
        seed: Of the random numbers.
        sweeps: At most; it stops when the error stands still.

    Returns:
        For each axis a matrix of shape (length, rank).
    """
    data = tensor.astype(np.float64)
    if not data.any():
        return [np.zeros((length, rank)) for length in data.shape]
    random = np.random.default_rng(seed)
    factors = [_start(unfold(data, mode), rank, random) for mode in range(data.ndim)]
    error = 1.0
    for _ in range(sweeps):
        for mode in range(data.ndim):
            factors = _balanced(factors)
            others = [factor for other, factor in enumerate(factors) if other != mode]
            gram = np.ones((rank, rank))
            for factor in others:
                gram = gram * (factor.T @ factor)
            # Less of it the nearer the end, so that what is a sum of products is found as one.
            ridge = _RIDGE * min(1, 10 * error) * np.trace(gram) / rank * np.eye(rank)
            right = unfold(data, mode) @ khatri_rao(others)
            factors[mode] = np.linalg.solve(gram + ridge, right.T).T
        before, error = error, lost_energy(data, cp_tensor(factors))
        if abs(before - error) < 1e-4 * before:
            break
    return _balanced(factors)


def _start(unfolded: Array, rank: int, random: np.random.Generator) -> Array:
    """Return leading singular vectors, off by a little: exactly at them, sweeps may stand still."""
    leading = _leading(unfolded, rank)
    more = random.normal(size=(len(unfolded), rank - leading.shape[1]))
    start = np.concatenate([leading, more], axis=1)
    off: Array = random.normal(size=start.shape) / (10 * np.sqrt(len(unfolded)))
    return start + off


def _balanced(factors: Sequence[Array]) -> list[Array]:
    """Give the vectors of each product the same length."""
    lengths = np.array([np.linalg.norm(factor, axis=0) for factor in factors])
    common = np.prod(lengths, axis=0) ** (1 / len(factors))
    return [
        factor * (common / np.where(length == 0, 1, length))
        for factor, length in zip(factors, lengths, strict=True)
    ]


def khatri_rao(factors: Sequence[Array]) -> Array:
    """Return the column-wise Kronecker product: (n, r) and (m, r) give (n * m, r)."""
    result = factors[0]
    for factor in factors[1:]:
        result = (result[:, None, :] * factor[None, :, :]).reshape(-1, factor.shape[1])
    return result


def cp_tensor(factors: Sequence[Array]) -> Array:
    """Return the sum of products that factors of shape (length, rank) stand for."""
    shape = [len(factor) for factor in factors]
    return (factors[0] @ khatri_rao(factors[1:]).T).reshape(shape)


def tensor_train(
    matrix: Array, taken: Sequence[int], made: Sequence[int], rank: int
) -> list[Array]:
    """Write a large matrix as a train of small cores (Oseledets 2011, algorithm 1).

    As in Novikov et al. 2015 (arXiv:1509.06569), rows and columns are numbered by several digits
    each, and core k holds digit k of both.

    Args:
        matrix: Shape (in, out).
        taken: Lengths of the digits of the rows; their product is `in`.
        made: Of the columns; as many, with the product `out`.
        rank: The largest rank between two cores.

    Returns:
        Cores of shape (rank before, digit of the row, digit of the column, rank after).
    """
    count = len(taken)
    digits = matrix.astype(np.float64).reshape(*taken, *made)
    paired = digits.transpose([axis for k in range(count) for axis in (k, k + count)])
    rest, before, cores = paired.reshape(1, -1), 1, []
    for rows, columns in zip(taken[:-1], made[:-1], strict=True):
        u, s, vt = np.linalg.svd(rest.reshape(before * rows * columns, -1), full_matrices=False)
        after = min(rank, len(s))
        cores.append(u[:, :after].reshape(before, rows, columns, after))
        rest, before = s[:after, None] * vt[:after], after
    return [*cores, rest.reshape(before, taken[-1], made[-1], 1)]


def train_matrix(cores: Sequence[Array]) -> Array:
    """Return the matrix that a train of cores stands for."""
    result = cores[0]
    for core in cores[1:]:
        result = np.tensordot(result, core, axes=(-1, 0))
    count = len(cores)
    digits = result.squeeze((0, -1))
    order = [*range(0, 2 * count, 2), *range(1, 2 * count, 2)]
    rows = prod(core.shape[1] for core in cores)
    return digits.transpose(order).reshape(rows, -1)


def digits_of(number: int, count: int) -> tuple[int, ...]:
    """Split a number into `count` factors, as equal as its prime factors allow, rising."""
    factors = [1] * count
    primes, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            primes.append(divisor)
            number //= divisor
        divisor += 1
    for prime in reversed(primes):
        factors[factors.index(min(factors))] *= prime
    return tuple(sorted(factors))
