"""What is coded, collected in the order in which it is decoded, and written at the end.

rANS is a stack: the encoder takes symbols last to first. So nothing is encoded before all of a
block is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab_agent.coding.rans import LOWEST_STATE, MAX_LANES
from trimtab_agent.coding.tables import SCALE_BITS

_WORD_BITS = 16
_SCALE = np.uint32(1 << SCALE_BITS)
_BYTES_PER_LANE = 750
"""A block has a lane for so many bytes of payload. Each adds 3 bytes: its state has 32 bits, of
which 8 on average tell something of the symbols. So lanes take 0.4 % of a payload. More lanes
decode faster."""

_BYTES_PER_CARRYING_LANE = 270
"""A lane that carries two bytes adds 1."""

_DECODED_BYTES_PER_LANE = 1 << 15
"""But there is a lane for so many bytes of the file: what packs very well must not take for ever to
decode. For a tensor that packs fifty-fold this adds half a per cent."""


def varint(value: int) -> bytes:
    """Returns an unsigned integer as 7 bits a byte, low first, the top bit saying "more"."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@dataclass(frozen=True)
class Tables:
    """Frequencies to encode with.

    Attributes:
        frequency: Of each symbol in each table, shape (tables, 256).
        start: Sum of those before it in the same table.
    """

    frequency: NDArray[np.uint32]
    start: NDArray[np.uint32]

    @classmethod
    def of(cls, frequencies: NDArray[np.int64]) -> Tables:
        """Makes tables of frequencies, shape (tables, 256)."""
        starts = np.cumsum(frequencies, axis=1) - frequencies
        return cls(frequencies.astype(np.uint32), starts.astype(np.uint32))

    def cost_bytes(self, counts: NDArray[np.int64]) -> float:
        """Returns what symbols with these counts, shape (tables, 256), take when coded."""
        seen = counts > 0
        bits = SCALE_BITS - np.log2(self.frequency[seen].astype(np.float64))
        return float((counts[seen] * bits).sum()) / 8


@dataclass(frozen=True)
class _Symbols:
    symbols: NDArray[np.uint8]
    tables: Tables
    contexts: NDArray[np.uint8] | None

    def first(self, count: int) -> _Symbols:
        contexts = None if self.contexts is None else self.contexts[:count]
        return _Symbols(self.symbols[:count], self.tables, contexts)


class Payload:
    """The payload of a block or a pool while it is put together."""

    def __init__(self) -> None:
        self._events: list[bytes | _Symbols] = []
        self._rest = b""
        self._carries_symbols = False
        self._size_bytes = 0.0
        self._symbols = 0

    def raw(self, data: bytes) -> None:
        """Adds bytes that are read as they are."""
        self._events.append(data)
        self._size_bytes += len(data)

    def rest(self, data: bytes) -> None:
        """Adds bytes that are read as they are, the last of all: lanes may carry them."""
        self._rest = data
        self._size_bytes += len(data)

    def carry_symbols(self) -> None:
        """Has lanes carry the last symbols of what was added last, and nothing follows."""
        self._carries_symbols = True

    def symbols(
        self,
        symbols: NDArray[np.uint8],
        tables: Tables,
        contexts: NDArray[np.uint8] | None,
    ) -> None:
        """Adds symbols to be entropy-coded.

        Args:
            symbols: In order.
            tables: To code them with; each symbol has a frequency.
            contexts: The table's number for each; None if there is one.
        """
        self._events.append(_Symbols(symbols, tables, contexts))
        self._symbols += symbols.size
        row = 0 if contexts is None else contexts
        frequency = tables.frequency[row, symbols]
        self._size_bytes += float((SCALE_BITS - np.log2(frequency.astype(np.float64))).sum()) / 8

    def finish(self, decoded_bytes: int) -> tuple[int, bytes]:
        """Returns the number of lanes, and the payload.

        Args:
            decoded_bytes: What the block decodes to.
        """
        if not self._symbols:
            return 0, b"".join([*(e for e in self._events if isinstance(e, bytes)), self._rest])
        states = np.full(self._lanes(decoded_bytes), LOWEST_STATE, np.uint32)
        *events, last = self._events
        rest = self._rest
        if self._carries_symbols and isinstance(last, _Symbols):
            coded = last.symbols.size - 2 * min(last.symbols.size // 2, states.size)
            rest, last = last.symbols[coded:].tobytes(), last.first(coded)
        carried = min(states.size, len(rest) // 2)
        states[:carried] += np.frombuffer(rest, "<u2", carried)
        parts: list[bytes] = [rest[2 * carried :]]
        for event in reversed([*events, last]):
            if isinstance(event, _Symbols):
                words = _encode(states, event)
                parts.append(varint(words.size) + words.astype("<u2").tobytes())
            else:
                parts.append(event)
        parts.append(states.astype("<u4").tobytes())
        return states.size, b"".join(reversed(parts))

    def _lanes(self, decoded_bytes: int) -> int:
        """Returns how many lanes to use: as many as their cost allows."""
        each = _BYTES_PER_CARRYING_LANE if self._rest or self._carries_symbols else _BYTES_PER_LANE
        lanes = max(self._size_bytes / each, decoded_bytes / _DECODED_BYTES_PER_LANE)
        return int(max(min(lanes, self._symbols, MAX_LANES), 1))


def _encode(states: NDArray[np.uint32], event: _Symbols) -> NDArray[np.uint16]:
    """Encodes symbols, last to first, into `states`; returns the words in the decoder's order."""
    words: list[NDArray[np.uint16]] = []
    row = 0 if event.contexts is None else event.contexts
    frequencies = event.tables.frequency[row, event.symbols]
    starts = event.tables.start[row, event.symbols]
    # The decoder will hold less than 2^16 after a symbol where the state is this large.
    limits = frequencies << np.uint32(2 * _WORD_BITS - SCALE_BITS)
    for begin in reversed(range(0, event.symbols.size, states.size)):
        lanes = slice(begin, begin + states.size)
        frequency = frequencies[lanes]
        state = states[: frequency.size]
        full = (state >= limits[lanes]).nonzero()[0]
        words.append(state[full].astype(np.uint16))
        state[full] >>= _WORD_BITS
        state += state // frequency * (_SCALE - frequency) + starts[lanes]
    return np.concatenate(words[::-1]) if words else np.zeros(0, np.uint16)
