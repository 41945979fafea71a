"""Levels of rows and columns: which of a plane's tables a place calls for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trimtab_agent.coding.contexts import MAX_LEVELS, Levels

_TABLES = (6, 12)
"""How many tables are tried."""

_SAMPLE = 1 << 18
"""Symbols that a plane's spread is taken of."""

_EXCESS = 3.0
"""How much more than by chance the means of rows or columns must vary (the F ratio of an analysis
of variance), before tables by place are worth trying."""


def proposals(symbols: NDArray[np.uint8], shape: tuple[int, ...]) -> Iterator[Levels]:
    """Yields levels worth trying on a plane.

    Args:
        symbols: One a tensor element, in memory order.
        shape: Of the tensor.
    """
    for rows, columns in _matrices(shape):
        matrix = symbols.reshape(rows, columns)
        for statistic in (_spread(matrix), matrix):
            row, column = statistic.mean(axis=1), statistic.mean(axis=0)
            if not _differ(row, column, statistic):
                continue
            if statistic is not matrix:
                # Scales multiply, so that their logarithms add.
                row, column = np.log2(row + 1 / 16), np.log2(column + 1 / 16)
            for tables in _TABLES:
                levels = _levels(row, column, tables)
                if levels.tables > 1:
                    yield levels


def _differ(
    row: NDArray[np.float64], column: NDArray[np.float64], statistic: NDArray[np.integer]
) -> bool:
    """Says whether the means of rows or columns vary more than those of equals would."""
    rows, columns = statistic.shape
    chance = statistic[: max(1, _SAMPLE // columns)].var()
    return bool(row.var() * columns > _EXCESS * chance or column.var() * rows > _EXCESS * chance)


def _matrices(shape: tuple[int, ...]) -> set[tuple[int, int]]:
    """Returns the matrices whose rows or columns may be channels of a tensor."""
    size = int(np.prod(shape))
    found = {(shape[0], size // shape[0]), (size // shape[-1], shape[-1])}
    return {(r, c) for r, c in found if r + c <= MAX_LEVELS and min(r, c) > 1}


def _spread(matrix: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Returns how far each symbol is from the commonest one, the way round 256 that is shorter."""
    commonest = int(np.bincount(matrix.reshape(-1)[:_SAMPLE], minlength=256).argmax())
    return np.abs((matrix - np.uint8(commonest)).view(np.int8).astype(np.int16))


def _levels(row: NDArray[np.float64], column: NDArray[np.float64], tables: int) -> Levels:
    """Divides the sums of row and column into about so many equal steps, outliers aside."""
    low = np.percentile(row, 2) + np.percentile(column, 2)
    high = np.percentile(row, 98) + np.percentile(column, 98)
    step = max((high - low) / tables, 1e-9)

    def quantized(values: NDArray[np.float64]) -> NDArray[np.uint8]:
        low, high = np.percentile(values, 2), np.percentile(values, 98)
        return np.rint((np.clip(values, low, high) - low) / step).astype(np.uint8)

    return Levels(quantized(row), quantized(column))
