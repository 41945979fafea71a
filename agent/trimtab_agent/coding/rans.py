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


class Lanes:
    """The decoder's states.

    Args:
        states: Where the encoder left them, one a lane.
    """

    def __init__(self, states: NDArray[np.uint32]) -> None:
        self._states = states.astype(np.uint32)
        count = states.size
        self._index = np.empty(count, np.int64)
        self._entry = np.empty(count, np.uint32)
        self._field = np.empty(count, np.uint32)
        self._low = np.empty(count, bool)

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
        lanes = self._states.size
        used = 0
        for start in range(0, count, lanes):
            stop = min(start + lanes, count)
            context = None if contexts is None else contexts[start:stop]
            used += self._step(lookup, words[used:], symbols[start:stop], context)
        if used != words.size:
            raise FormatError(f"coded symbols take {used} words of {words.size}")
        return symbols

    def _step(
        self,
        lookup: Lookup,
        words: NDArray[np.uint16],
        symbols: NDArray[np.uint8],
        contexts: NDArray[np.uint8] | None,
    ) -> int:
        """Decodes one symbol in each of the first `symbols.size` lanes; returns the words used."""
        count = symbols.size
        state, entry = self._states[:count], self._entry[:count]
        index, field = self._index[:count], self._field[:count]
        np.bitwise_and(state, _SLOT, out=index, casting="unsafe")
        if contexts is not None:
            index += contexts.astype(np.int64) << SCALE_BITS
        # "raise", numpy's default, would copy what it writes.
        lookup.symbols.take(index, out=symbols, mode="wrap")
        lookup.places.take(index, out=entry, mode="wrap")
        np.right_shift(state, _SCALE_BITS, out=state)
        np.right_shift(entry, _WORD_BITS, out=field)
        np.multiply(state, field, out=state)
        np.bitwise_and(entry, _LOW_HALF, out=field)
        np.add(state, field, out=state)
        np.less(state, _LOWEST, out=self._low[:count])
        thirsty = self._low[:count].nonzero()[0]
        if thirsty.size > words.size:
            raise FormatError(f"coded symbols take more than their {words.size} last words")
        refilled = state.take(thirsty, mode="wrap")
        np.left_shift(refilled, _WORD_BITS, out=refilled)
        np.bitwise_or(refilled, words[: thirsty.size], out=refilled)
        state[thirsty] = refilled
        return thirsty.size

    def check_end(self) -> None:
        """Checks that every lane is back where the encoder began.

        Raises:
            FormatError: One is not: the stream is damaged.
        """
        if (self._states != _LOWEST).any():
            raise FormatError("the coded symbols of a block do not add up: the stream is damaged")
