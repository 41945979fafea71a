"""Rounding of weights in which later weights make up for the errors of earlier ones.

GPTQ (Frantar et al. 2023, arXiv:2210.17323, algorithm 1): the columns of a weight matrix are
rounded one after another, and what each loses is made good, as far as the inputs allow, by
changing those that are not rounded yet. That needs the second moments of the layer's inputs, and
no labels. Here columns are taken in their own order and scales are searched as in `weight_grid`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.compress.weight_grid import Bits, Groups, fit

Array = NDArray[Any]

_DAMPING = 0.01
"""Added to the diagonal, as a share of its mean, as in the paper: few samples leave directions of
the input unseen, and there nothing must be made good."""
_BLOCK = 64
"""Columns after which what they lose is passed on to all later ones, in one product."""


def fit_compensated(
    matrix: Array, moments: Array, size: int, bits: Bits, *, symmetric: bool
) -> Groups:
    """Finds codes and scales with little squared error of the layer's outputs.

    Zeros stay zero, so that pruned weights do.

    Args:
        matrix: Weights, shape (outputs, inputs), finite.
        moments: Sums of products of inputs, shape (parts, inputs, inputs). Where there are
            several parts, as in a grouped convolution, each is for its share of the outputs.
        size: How many weights of a row share a scale; it divides the inputs.
        bits: More than one.
        symmetric: See `weight_grid.fit`.

    Returns:
        Groups in the order of the matrix, row by row.
    """
    parts = np.split(np.asarray(matrix, np.float64), len(moments))
    fitted = [
        _fit_part(part, own, size, bits, symmetric=symmetric)
        for part, own in zip(parts, moments, strict=True)
    ]
    return Groups(
        np.concatenate([each.codes for each in fitted]),
        np.concatenate([each.scales for each in fitted]),
        np.concatenate([each.zero_points for each in fitted]),
    )


def round_compensated(steps: Array, moments: Array, highest: int) -> Array:
    """Rounds weights whose scales are settled.

    Zeros stay zero, and inputs that were never seen have their weights rounded to nearest.

    Args:
        steps: Weights over their scales, shape (outputs, inputs), finite.
        moments: As for `fit_compensated`; parts are worked on side by side.
        highest: Codes are from `-highest` to this.

    Returns:
        Codes, float64, shape (outputs, inputs).
    """
    parts, columns = len(moments), steps.shape[1]
    left = np.array(steps, np.float64).reshape(parts, -1, columns)
    factor, pruned, codes = _factors(moments), left == 0, np.empty_like(left)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty((*left.shape[:2], stop - start))
        for column in range(start, stop):
            exact = left[:, :, column]
            own = np.where(pruned[:, :, column], 0, np.clip(np.rint(exact), -highest, highest))
            error = (exact - own) / factor[:, None, column, column]
            left[:, :, column + 1 : stop] -= (
                error[:, :, None] * factor[:, None, column, column + 1 : stop]
            )
            codes[:, :, column], errors[:, :, column - start] = own, error
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return codes.reshape(steps.shape)


def _fit_part(weights: Array, moments: Array, size: int, bits: Bits, *, symmetric: bool) -> Groups:
    factor = _factors(moments[None])[0]
    lowest, highest = _code_range(bits, symmetric=symmetric)
    left, pruned = weights.copy(), weights == 0
    blocks = []
    for start in range(0, weights.shape[1], size):
        stop = start + size
        grid = fit(left[:, start:stop], bits, symmetric=symmetric)
        codes = np.empty((len(left), size), np.int16)
        errors = np.empty((len(left), size))
        for column in range(start, stop):
            exact = left[:, column]
            rounded = np.rint(exact / grid.scales) + grid.zero_points
            own = np.clip(rounded, lowest, highest)
            own = np.where(pruned[:, column], grid.zero_points, own)
            real = (own - grid.zero_points) * grid.scales
            error = (exact - real) / factor[column, column]
            left[:, column + 1 : stop] -= np.outer(error, factor[column, column + 1 : stop])
            codes[:, column - start], errors[:, column - start] = own, error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
        blocks.append((codes, grid.scales, grid.zero_points))
    codes, scales, zeros = (np.stack(each, axis=1) for each in zip(*blocks, strict=True))
    return Groups(codes.reshape(-1, size), scales.ravel(), zeros.ravel())


def _factors(moments: Array) -> Array:
    """Returns the upper Cholesky factors of the inverses of damped moments, part by part."""
    damped = np.array(moments, np.float64)
    diagonal = np.einsum("pii->pi", damped)  # a view
    mean = diagonal.mean(axis=1, keepdims=True)
    diagonal += np.where(mean > 0, _DAMPING * mean, 1.0)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1))


def _code_range(bits: int, *, symmetric: bool) -> tuple[int, int]:
    highest = 2 ** (bits - 1) - 1
    return (-highest, highest) if symmetric else (0, 2**bits - 1)
