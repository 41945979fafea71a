"""Probability tables: a logarithm for each symbol in the stream, a lookup table in the decoder.

A table is sent as one code a symbol, the logarithm of its probability in eighths, quarters or
halves of an octave. Neighbouring symbols have similar codes, so their differences are small
numbers, which zstd packs with the rest of a block's header to two or three bits a symbol. Rounded
to quarters of an octave, a table costs less than 0.002 bits a symbol in coding.

All of it is integer arithmetic: host and device get the same table on every processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab_agent.errors import FormatError

SCALE_BITS = 12
SCALE = 1 << SCALE_BITS
"""What the frequencies of a table add up to."""

SYMBOLS = 256
STEPS = 8
"""Codes to the octave at the finest."""

_OCTAVES = 14
MAX_CODE = STEPS * _OCTAVES
_EIGHTHS = (32768, 35734, 38968, 42495, 46341, 50535, 55109, 60097)
"""2**(15 + i/8), rounded."""
_WEIGHTS = np.array(
    [0, *(_EIGHTHS[code % STEPS] << (code // STEPS) for code in range(MAX_CODE))], np.int64
)


def frequencies(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the frequencies that codes stand for.

    Args:
        codes: Of every symbol; 0 for one that does not occur, else 1 + the logarithm of its
            probability in eighths of an octave above the rarest.

    Returns:
        As many, adding up to `SCALE`; at least 1 for every symbol that occurs.

    Raises:
        FormatError: A code is out of range, or fewer than two symbols occur.
    """
    if codes.max(initial=0) > MAX_CODE or np.count_nonzero(codes) < 2:
        raise FormatError("a probability table in the coded stream is out of range")
    weights = _WEIGHTS[codes]
    total = weights.sum()
    shares = np.where(codes > 0, np.maximum((weights * SCALE + total // 2) // total, 1), 0)
    missing = SCALE - int(shares.sum())
    while missing:
        # Rounding is made good where it costs least: at the most frequent symbols.
        top = int(shares.argmax())
        step = missing if missing > 0 else max(missing, -int(shares[top] >> 3) or -1)
        shares[top] += step
        missing -= step
    return shares


@dataclass(frozen=True)
class Lookup:
    """The decoder's view of one table, or of several one after the other.

    Attributes:
        symbols: The symbol in each of the `SCALE` slots of a table.
        frequencies: For each slot, its symbol's frequency.
        places: For each slot, its place within the symbol's range.
    """

    symbols: NDArray[np.uint8]
    frequencies: NDArray[np.uint32]
    places: NDArray[np.uint32]


def lookup(tables: Sequence[NDArray[np.int64]]) -> Lookup:
    """Returns the decoder's view of tables of frequencies."""
    frequency = np.concatenate(tables)
    # Frequencies of a table add up to SCALE, so that slots of all tables follow each other.
    starts = np.cumsum(frequency) - frequency
    symbols = np.arange(frequency.size) % SYMBOLS
    return Lookup(
        np.repeat(symbols.astype(np.uint8), frequency),
        np.repeat(frequency.astype(np.uint32), frequency),
        (np.arange(frequency.sum()) - np.repeat(starts, frequency)).astype(np.uint32),
    )
