"""Entropy decoding with rANS, vectorised over lanes.

The coder is range ANS (J. Duda, "Asymmetric numeral systems", arXiv:1311.2540), interleaved as by
F. Giesen ("Interleaved entropy coders", arXiv:1402.3392): `L` coders, each with a state of its
own, share one sequence of words and take turns. One numpy operation works on all lanes at once, so
a step decodes `L` symbols for the price of a dozen calls. States have 32 bits, are kept at 2^16 or
above, and take a word of 16 bits when they fall below; tables have 12 bits.

Lanes cost 4 bytes each once a block, not once a plane: planes follow each other through the same
lanes. So small tensors can share them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab_agent.coding.tables import SCALE_BITS, Lookup
from trimtab_agent.errors import FormatError

MAX_LANES = 1 << 14
LOWEST_STATE = 1 << 16
"""Where every lane begins in the encoder, and so must end in the decoder."""

_SLOT = np.uint32((1 << SCALE_BITS) - 1)
_SCALE_BITS = np.uint32(SCALE_BITS)
_WORD_BITS = np.uint32(16)
_LOW_HALF = np.uint32(0xFFFF)
_LOWEST = np.uint32(LOWEST_STATE)


@dataclass(frozen=True, slots=True)
class _Arrays:
    """The lanes' states, and room for the results of a step: numpy allocates nothing then."""

    state: NDArray[np.uint32]
    index: NDArray[np.int64]
    entry: NDArray[np.uint32]
    field: NDArray[np.uint32]
    low: NDArray[np.bool_]

    def first(self, count: int) -> _Arrays:
        """Returns the first `count` lanes; they share their states."""
        return _Arrays(
            self.state[:count],
            self.index[:count],
            self.entry[:count],
            self.field[:count],
            self.low[:count],
        )


class Lanes:
    """The decoder's states.

    Args:
        states: Where the encoder left them, one a lane.
    """

    def __init__(self, states: NDArray[np.uint32]) -> None:
        count = states.size
        self._arrays = _Arrays(
            state=states.astype(np.uint32),
            index=np.empty(count, np.int64),
            entry=np.empty(count, np.uint32),
            field=np.empty(count, np.uint32),
            low=np.empty(count, np.bool_),
        )

    def decode(
        self,
        lookup: Lookup,
        words: NDArray[np.uint16],
        count: int,
        contexts: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Decodes the next symbols.

        Args:
            lookup: The table, or tables.
            words: What these symbols take from the sequence of words, all of it.
            count: How many symbols.
            contexts: For each symbol the number of its table; None if there is one.

        Raises:
            FormatError: The symbols take more or fewer words.
        """
        symbols = np.empty(count, np.uint8)
        arrays = self._arrays
        lanes = arrays.state.size
        used = 0
        for start in range(0, count, lanes):
            if count - start < lanes:
                arrays = arrays.first(count - start)
            stop = start + lanes
            np.bitwise_and(arrays.state, _SLOT, out=arrays.index, casting="unsafe")
            if contexts is not None:
                np.left_shift(contexts[start:stop], _SCALE_BITS, out=arrays.field)
                np.add(arrays.index, arrays.field, out=arrays.index)
            # "raise", numpy's default, would copy what it writes.
            lookup.symbols.take(arrays.index, out=symbols[start:stop], mode="wrap")
            lookup.places.take(arrays.index, out=arrays.entry, mode="wrap")
            used = _advance(arrays, words, used)
        if used != words.size:
            raise FormatError(f"coded symbols take {used} words of {words.size}")
        return symbols

    def check_end(self) -> None:
        """Checks that every lane is back where the encoder began.

        Raises:
            FormatError: One is not: the stream is damaged.
        """
        if (self._arrays.state != _LOWEST).any():
            raise FormatError("the coded symbols of a block do not add up: the stream is damaged")


def _advance(arrays: _Arrays, words: NDArray[np.uint16], used: int) -> int:
    """Takes the symbols whose `entry` was looked up off the states, and refills those too low.

    Returns:
        How many words are used after it.
    """
    state, entry, field, low = arrays.state, arrays.entry, arrays.field, arrays.low
    np.right_shift(state, _SCALE_BITS, out=state)
    np.right_shift(entry, _WORD_BITS, out=field)
    np.multiply(state, field, out=state)
    np.bitwise_and(entry, _LOW_HALF, out=field)
    np.add(state, field, out=state)
    np.less(state, _LOWEST, out=low)
    thirsty = low.nonzero()[0]
    after = used + thirsty.size
    if after > words.size:
        raise FormatError(f"coded symbols take more than their {words.size} words")
    refilled = state.take(thirsty, mode="wrap")
    np.left_shift(refilled, _WORD_BITS, out=refilled)
    np.bitwise_or(refilled, words[used:after], out=refilled)
    state[thirsty] = refilled
    return after
