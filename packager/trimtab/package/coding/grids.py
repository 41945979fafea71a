"""Floats that were integers times a scale, found again.

Weights that were quantized and turned back to float32 (weight-only quantization, lowered for a
runtime that has no such integers) are an int8 code times a float32 scale, one scale a channel or a
tensor. Found again, they take a byte and not four. The product in float32 must give the exact bits
of every element; otherwise there is no grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LARGEST_CODES = (127, 128, *range(126, 0, -1))
"""What the largest value of a row may be a multiple of; 127 and 128 first, as quantizers do."""

_PROBE_ROWS = 2

_MIN_LENGTH = 8
"""Shorter rows have as many scales as they save."""


@dataclass(frozen=True)
class Grid:
    """Rows of codes and their scales.

    Attributes:
        codes: One an element, in memory order.
        scales: One a row.
        length: Elements that follow each other in a row; rows take turns, from the first again
            after the last.
    """

    codes: NDArray[np.int8]
    scales: Floats
    length: int


def find_grid(elements: NDArray[np.unsignedinteger], shape: tuple[int, ...] | None) -> Grid | None:
    """Returns the grid that elements lie on, or None.

    Args:
        elements: Bits of float32 numbers, in memory order.
        shape: Of the tensor; None if only one scale for all is to be looked for.
    """
    values = elements.view(np.float32)
    if not np.isfinite(values).all():
        return None
    for rows, length in _layouts(values.size, shape):
        # (repeats, rows, length) to a row of all its elements
        matrix = values.reshape(-1, rows, length).transpose(1, 0, 2).reshape(rows, -1)
        scales = _scales(matrix)
        if scales is None:
            continue
        codes = _codes(matrix, scales)
        back = (codes * scales[:, None]).astype(np.float32)
        if np.array_equal(back.view(np.uint32), matrix.view(np.uint32)):
            places = codes.reshape(rows, -1, length).transpose(1, 0, 2).reshape(-1)
            return Grid(np.ascontiguousarray(places), scales, length)
    return None


def _layouts(size: int, shape: tuple[int, ...] | None) -> Iterator[tuple[int, int]]:
    """Yields number and length of rows: one for all, per first axis, per last axis, per group."""
    yield 1, size
    if shape is None or len(shape) < 2:
        return
    for rows, length in ((shape[0], size // shape[0]), (shape[-1], 1)):
        if rows > 1 and size // rows >= _MIN_LENGTH:
            yield rows, length
    for group in (256, 128, 64, 32, 16):
        if (size // shape[0]) % group == 0 and size // group > shape[0]:
            yield size // group, group


def _codes(matrix: Floats, scales: Floats) -> NDArray[np.int8]:
    quotient = matrix / np.where(scales == 0, np.float32(1), scales)[:, None]
    codes: NDArray[np.int8] = np.clip(np.rint(quotient), -128, 127).astype(np.int8)
    return codes


def _scales(matrix: Floats) -> Floats | None:
    """Returns a scale for each row by which all its elements are whole, or None if one has none."""
    largest = np.abs(matrix).max(axis=1)
    scales = np.zeros(largest.size, np.float32)
    rows = largest.nonzero()[0]
    # Most tensors have no grid: a few rows show it.
    for some in (rows[:_PROBE_ROWS], rows[_PROBE_ROWS:]):
        if not _find_scales(matrix, largest, scales, some):
            return None
    return scales


def _find_scales(matrix: Floats, largest: Floats, scales: Floats, rows: NDArray[np.int64]) -> bool:
    """Finds the scales of `rows` and puts them into `scales`; says whether all have one."""
    for top in _LARGEST_CODES:
        for toward in (None, np.float32(0), np.float32(np.inf)):
            if not rows.size:
                return True
            guess = largest[rows] / np.float32(top)
            # The division rounds, so that the true scale may be the next number.
            guess = guess if toward is None else np.nextafter(guess, toward)
            fits = _fits(matrix[rows], guess)
            scales[rows[fits]] = guess[fits]
            rows = rows[~fits]
    return not rows.size


def _fits(matrix: Floats, scales: Floats) -> NDArray[np.bool_]:
    """Says for each row whether codes times its scale are exactly its elements."""
    sample = matrix[:, :64]
    rough = (_codes(sample, scales) * scales[:, None]).astype(np.float32) == sample
    fits: NDArray[np.bool_] = rough.all(axis=1)
    likely = fits.nonzero()[0]
    if likely.size:
        exact = (_codes(matrix[likely], scales[likely]) * scales[likely, None]) == matrix[likely]
        fits[likely] = exact.all(axis=1)
    return fits
