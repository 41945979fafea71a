"""Entropy decoding with rANS, vectorised over lanes.

The coder is range ANS (J. Duda, "Asymmetric numeral systems", arXiv:1311.2540), interleaved as by
F. Giesen ("Interleaved entropy coders", arXiv:1402.3392): `L` coders, each with a state of its
own, share one sequence of words and take turns. One numpy operation works on all lanes at once, so
a step decodes `L` symbols for the price of a dozen calls. States have 32 bits, are kept at 2^16 or
above, and take a word of 16 bits when they fall below; tables have 12 bits.

Lanes cost 4 bytes each once a block, not once a plane: planes follow each other through the same
lanes. So small tensors can share them. Where there are bytes that need no coding, two of them
travel in each lane, which costs 1 byte then.
"""

from __future__ import annotations

import sys

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
_LOWEST = np.uint32(LOWEST_STATE)

_LOW_HALF = 0 if sys.byteorder == "little" else 1
"""Which half of a 32-bit number in memory has its lower bits."""

_SYMBOLS_AT_ONCE = 1 << 14
"""So many symbols are looked up in one call."""

_FEW_LANES = 1 << 11
"""Up to here calls cost more than elements, and fewer calls are faster than faster ones."""


class _Arrays:
    """The lanes' states, and room for the results of a step: numpy allocates nothing then.

    Args:
        state: One a lane.
    """

    def __init__(self, state: NDArray[np.uint32]) -> None:
        self.state = state
        halves = state.view(np.uint16).reshape(-1, 2)
        self.low_half, self.high_half = halves[:, _LOW_HALF], halves[:, 1 - _LOW_HALF]
        self.frequency = np.empty(state.size, np.uint32)
        self.place = np.empty(state.size, np.uint32)
        self.is_low = np.empty(state.size, np.bool_)

    def first(self, count: int) -> _Arrays:
        """Returns the first `count` lanes; they share their states."""
        return self if count == self.state.size else _Arrays(self.state[:count])


class Lanes:
    """The decoder's states.

    Args:
        states: Where the encoder left them, one a lane.
    """

    def __init__(self, states: NDArray[np.uint32]) -> None:
        self._arrays = _Arrays(states.astype(np.uint32))

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
        lanes = self._arrays.state.size
        at_once = max(1, _SYMBOLS_AT_ONCE // lanes) * lanes
        slots = np.empty(min(at_once, count), np.int64)
        used = 0
        for start in range(0, count, at_once):
            some = slice(start, min(start + at_once, count))
            taken = slots[: some.stop - start]
            tables = None if contexts is None else contexts[some].astype(np.int64) << SCALE_BITS
            used = self._take(lookup, tables, taken, words, used)
            # "raise", numpy's default, would copy what it writes.
            lookup.symbols.take(taken, out=symbols[some], mode="wrap")
        if used != words.size:
            raise FormatError(f"coded symbols take {used} words of {words.size}")
        return symbols

    def _take(
        self,
        lookup: Lookup,
        tables: NDArray[np.int64] | None,
        slots: NDArray[np.int64],
        words: NDArray[np.uint16],
        used: int,
    ) -> int:
        """Takes symbols off the states; their slots in the lookup table go into `slots`.

        Which symbols they are is looked up afterwards, many steps at a time.

        Returns:
            How many words are used after it.
        """
        lanes = self._arrays.state.size
        for start in range(0, slots.size, lanes):
            slot = slots[start : start + lanes]
            arrays = self._arrays.first(slot.size)
            state = arrays.state
            np.bitwise_and(state, _SLOT, out=slot, casting="unsafe")
            if tables is not None:
                np.add(slot, tables[start : start + lanes], out=slot)
            lookup.frequencies.take(slot, out=arrays.frequency, mode="wrap")
            lookup.places.take(slot, out=arrays.place, mode="wrap")
            np.right_shift(state, _SCALE_BITS, out=state)
            np.multiply(state, arrays.frequency, out=state)
            np.add(state, arrays.place, out=state)
            used = _refill(arrays, words, used)
        return used

    def carried(self, count: int) -> int:
        """Returns how many of the last `count` bytes lanes carry: two each."""
        return 2 * min(count // 2, self._arrays.state.size)

    def rest(self, count: int) -> bytes:
        """Returns what the encoder began the first lanes with besides the lowest state.

        A state of 32 bits would else say nothing in its lower half in the end. All lanes are at
        the lowest state afterwards.

        Args:
            count: Of bytes at most; two a lane.

        Raises:
            FormatError: A lane is too high: the stream is damaged.
        """
        lanes = self._arrays.first(self.carried(count) // 2)
        if (lanes.high_half != 1).any():
            raise FormatError("the coded symbols of a pool do not add up: the stream is damaged")
        data = lanes.low_half.astype("<u2").tobytes()
        lanes.low_half[:] = 0
        return data

    def check_end(self) -> None:
        """Checks that every lane is back where the encoder began.

        Raises:
            FormatError: One is not: the stream is damaged.
        """
        if (self._arrays.state != _LOWEST).any():
            raise FormatError("the coded symbols of a block do not add up: the stream is damaged")


def _refill(arrays: _Arrays, words: NDArray[np.uint16], used: int) -> int:
    """Puts a word into each state that is too low.

    Returns:
        How many words are used after it.
    """
    np.less(arrays.state, _LOWEST, out=arrays.is_low)
    thirsty = arrays.is_low.nonzero()[0]
    after = used + thirsty.size
    if after > words.size:
        raise FormatError(f"coded symbols take more than their {words.size} words")
    if arrays.state.size <= _FEW_LANES:
        arrays.high_half[thirsty] = arrays.low_half[thirsty]
        arrays.low_half[thirsty] = words[used:after]
        return after
    refilled = arrays.state.take(thirsty, mode="wrap")
    np.left_shift(refilled, _WORD_BITS, out=refilled)
    np.bitwise_or(refilled, words[used:after], out=refilled)
    arrays.state[thirsty] = refilled
    return after
