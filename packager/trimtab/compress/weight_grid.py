"""Weights in few bits: the codes of a group of weights and the scale that they share.

A code `q` stands for `scale * (q - zero_point)`, as in ONNX DequantizeLinear. Groups are rows of
a matrix. The scale is searched for: a shrunken one clips the largest weights and stores all
others finer, which pays the more the fewer bits there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Bits = Literal[8, 4, 2, 1]

SMALLEST_EXTENT = 1e-12
_CHUNK = 1 << 20
"""Weights whose scales are searched at once: bounds the memory that the search takes."""

_SHRINK = {8: (0.9, 5), 4: (0.5, 26), 2: (0.2, 41)}
"""By bits: the smallest factor that is tried on a scale, and how many up to 1. At 8 bits clipping
hardly pays."""


@dataclass(frozen=True)
class Groups:
    """Groups of weights in codes.

    Attributes:
        codes: Shape (groups, size), int16; the caller packs them.
        scales: Shape (groups,), float32, above 0.
        zero_points: Shape (groups,), int16; 0 where codes are symmetric.
    """

    codes: NDArray[np.int16]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int16]

    def values(self) -> NDArray[np.float32]:
        """Returns the real numbers that the codes stand for, shape (groups, size)."""
        steps = self.codes - self.zero_points[:, None]
        return (steps * self.scales[:, None]).astype(np.float32)


def fit(groups: Array, bits: Bits, *, symmetric: bool) -> Groups:
    """Finds codes and scales with little squared error. Zero is always stored as zero.

    Args:
        groups: Shape (groups, size), finite; nothing may be empty.
        bits: 1 stores a sign: the scale is the mean magnitude, which is the best there is
            (Rastegari et al. 2016, arXiv:1603.05279, section 3.1). Exact zeros stay zero.
        symmetric: Codes around zero point 0; -1, 0 and 1 in 2 bits. Otherwise codes from 0 up
            with a zero point for each group. One bit is always symmetric.
    """
    rows = max(1, _CHUNK // groups.shape[1])
    parts = [
        _fit(groups[start : start + rows].astype(np.float32), bits, symmetric=symmetric)
        for start in range(0, len(groups), rows)
    ]
    return Groups(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.zero_points for part in parts]),
    )


def _fit(groups: NDArray[np.float32], bits: Bits, *, symmetric: bool) -> Groups:
    if bits == 1:
        return _signs(groups)
    first, number = _SHRINK[bits]
    best = _rounded(groups, bits, 1.0, symmetric=symmetric)
    least = _errors(groups, best)
    for factor in np.linspace(first, 1, number)[:-1]:
        tried = _rounded(groups, bits, factor, symmetric=symmetric)
        errors = _errors(groups, tried)
        better = errors < least
        least = np.where(better, errors, least)
        best = Groups(
            np.where(better[:, None], tried.codes, best.codes),
            np.where(better, tried.scales, best.scales),
            np.where(better, tried.zero_points, best.zero_points),
        )
    return best


def _signs(groups: NDArray[np.float32]) -> Groups:
    nonzero = np.count_nonzero(groups, axis=1)
    means = np.abs(groups).sum(axis=1) / np.maximum(nonzero, 1)
    scales = np.where(means > SMALLEST_EXTENT, means, 1).astype(np.float32)
    return Groups(np.sign(groups).astype(np.int16), scales, np.zeros(len(groups), np.int16))


def _rounded(groups: NDArray[np.float32], bits: int, factor: float, *, symmetric: bool) -> Groups:
    """Rounds to the codes of a range that is shrunk by a factor."""
    if symmetric:
        highest = 2 ** (bits - 1) - 1
        lowest, steps = -highest, highest
        extent = np.abs(groups).max(axis=1) * factor
        low = np.zeros(len(groups), np.float32)
    else:
        lowest, highest, steps = 0, 2**bits - 1, 2**bits - 1
        low = np.minimum(groups.min(axis=1), 0) * factor
        extent = np.maximum(groups.max(axis=1), 0) * factor - low
    scales = np.where(extent > SMALLEST_EXTENT, extent / steps, 1).astype(np.float32)
    zeros = np.clip(np.rint(-low / scales), 0, max(highest, 0)).astype(np.int16)
    codes = np.clip(np.rint(groups / scales[:, None]) + zeros[:, None], lowest, highest)
    return Groups(codes.astype(np.int16), scales, zeros)


def _errors(groups: NDArray[np.float32], stored: Groups) -> NDArray[np.float64]:
    errors: NDArray[np.float64] = np.square(stored.values() - groups, dtype=np.float64).sum(axis=1)
    return errors
