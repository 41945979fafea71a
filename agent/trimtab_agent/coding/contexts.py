"""Which probability table an element's place calls for.

Small tensors that are coded as one have runs: each tensor names a table.

Rows and columns of a weight matrix have scales of their own: some output channels have large
weights, some inputs are hardly used. With a level for each row and each column, the sum of the two
chooses a table, as the logarithm of a product of scales would. Rows and columns of a tensor of any
shape are those of the matrix that holds it in memory order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab_agent.coding.source import Source
from trimtab_agent.errors import FormatError

MAX_TABLES = 32
MAX_LEVELS = 1 << 16
"""Rows and columns together: what their levels take of a block's header."""

MAX_RUNS = 1 << 12


class Contexts(Protocol):
    """The numbers of the tables that the symbols of a plane are coded with."""

    @property
    def tables(self) -> int:
        """How many tables there are."""

    def contexts(self, start: int, count: int) -> NDArray[np.uint8]:
        """Returns the table's number for each of `count` positions from `start` on."""


@dataclass(frozen=True)
class Levels:
    """Levels of rows and columns.

    Attributes:
        rows: A level for each; elements of a row follow each other in memory. Position `i` lies
            in row `i // columns.size`, modulo the number of rows.
        columns: A level for each.
    """

    rows: NDArray[np.uint8]
    columns: NDArray[np.uint8]

    @property
    def tables(self) -> int:
        """How many tables these levels can call for."""
        return int(self.rows.max()) + int(self.columns.max()) + 1

    def contexts(self, start: int, count: int) -> NDArray[np.uint8]:
        """Returns the table's number for each of `count` positions from `start` on."""
        width = self.columns.size
        first, last = start // width, -(-(start + count) // width)
        rows = self.rows[np.arange(first, last) % self.rows.size]
        plane = (rows[:, None] + self.columns[None, :]).reshape(-1)
        return plane[start - first * width :][:count]


def read_levels(source: Source) -> Levels:
    """Reads levels from a block's header.

    Raises:
        FormatError: They are too many, or call for more tables than there may be.
    """
    rows, columns = source.varint(), source.varint()
    if not (rows > 0 and columns > 0 and rows + columns <= MAX_LEVELS):
        raise FormatError(f"{rows} x {columns} levels in the coded stream are out of range")
    data = np.frombuffer(source.read(rows + columns), np.uint8)
    if data.max() >= MAX_TABLES:
        raise FormatError(f"a level in the coded stream is {data.max()}, not below {MAX_TABLES}")
    levels = Levels(data[:rows], data[rows:])
    if levels.tables > MAX_TABLES:
        raise FormatError(f"levels in the coded stream call for {levels.tables} tables")
    return levels


@dataclass(frozen=True)
class Runs:
    """Runs of consecutive elements, each with a table.

    Attributes:
        lengths: Of each run, in elements.
        numbers: Of each run's table.
    """

    lengths: NDArray[np.int64]
    numbers: NDArray[np.uint8]

    @property
    def tables(self) -> int:
        """How many tables these runs can call for."""
        return int(self.numbers.max()) + 1

    def contexts(self, start: int, count: int) -> NDArray[np.uint8]:
        """Returns the table's number for each of `count` positions from `start` on."""
        return np.repeat(self.numbers, self.lengths)[start : start + count]


def read_runs(source: Source, elements: int) -> Runs:
    """Reads runs from a block's header.

    Args:
        source: The header.
        elements: How many the runs have together.

    Raises:
        FormatError: They are too many, have another sum, or call for more tables than there may be.
    """
    count = source.varint()
    if not 0 < count <= MAX_RUNS:
        raise FormatError(f"{count} runs in the coded stream, not 1 to {MAX_RUNS}")
    lengths = np.array([source.varint() for _ in range(count)], np.int64)
    numbers = np.frombuffer(source.read(count), np.uint8)
    if int(lengths.sum()) != elements or numbers.max() >= MAX_TABLES:
        raise FormatError(
            f"runs of {int(lengths.sum())} elements with {int(numbers.max()) + 1} tables where "
            f"{elements} elements and at most {MAX_TABLES} tables are expected"
        )
    return Runs(lengths, numbers)
