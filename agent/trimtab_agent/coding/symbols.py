"""Planes of symbols: one byte for each element, in one of eight codings.

    byte  coding    in the header                       in the payload, for each slice
    ----  --------  ----------------------------------  -------------------------------------
    0     constant  the byte                            nothing
    1     raw       packing                             the bytes
    2     zstd      packing                             length (varint), frame without magic
    3     entropy   packing, one table                  words (varint), so many 16-bit words
    4     by place  levels of rows and columns, tables  the same
    5     by run    lengths and table numbers, tables   the same
    6     rest      nothing                             two bytes from each lane, the others
    7     both      as 5                                as 5, at the end two bytes from each lane

5 to 7 occur in pools only (`trimtab_agent.coding.pools`).

With a packing of (a, k), k consecutive symbols below a are one byte: the first times 1, the second
times a, and so on. Four 2-bit indices in a raw byte are the bit-packed palette; packed symbols with
entropy coding take fewer steps, and see how neighbours go together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from trimtab_agent.coding.contexts import Contexts, read_levels, read_runs
from trimtab_agent.coding.rans import MAX_LANES, Lanes
from trimtab_agent.coding.source import Source, unzstd
from trimtab_agent.coding.tables import MAX_CODE, SYMBOLS, Lookup, frequencies, lookup
from trimtab_agent.errors import FormatError

Plane = NDArray[np.uint8]
Reader = Callable[[int], Plane]
"""Reads so many of a plane's next symbols."""


class Coding(IntEnum):
    """How a plane is coded; the values are those in the stream."""

    CONSTANT = 0
    RAW = 1
    ZSTD = 2
    ENTROPY = 3
    BY_PLACE = 4
    BY_RUN = 5
    REST = 6
    BY_RUN_REST = 7


@dataclass(frozen=True)
class Payload:
    """Where planes are read from: the payload of a block, and the lanes that decode it."""

    source: Source
    lanes: Lanes | None

    @classmethod
    def open(cls, source: Source, lanes: int) -> Payload:
        """Reads the states that stand at the head of a payload.

        Raises:
            FormatError: There are too many lanes.
        """
        if lanes > MAX_LANES:
            raise FormatError(f"a block has {lanes} lanes, more than {MAX_LANES}")
        if not lanes:
            return cls(source, None)
        return cls(source, Lanes(np.frombuffer(source.read(4 * lanes), "<u4")))

    def check_end(self) -> None:
        """Checks that every lane is back where the encoder began.

        Raises:
            FormatError: One is not: the stream is damaged.
        """
        if self.lanes:
            self.lanes.check_end()

    def rest(self, count: int) -> Plane:
        """Returns bytes that lanes and, behind the last coded symbol, the payload hold."""
        held = self.lanes.rest(count) if self.lanes else b""
        return np.frombuffer(held + self.source.read(count - len(held)), np.uint8)


def plane_reader(header: Source, *, pooled: int | None = None) -> Callable[[Payload], Reader]:
    """Reads a plane's description from a block's header.

    Args:
        header: The header, at the description.
        pooled: How many symbols the plane has, if it is one of a pool.

    Returns:
        What makes a reader of the plane, once the payload begins.

    Raises:
        FormatError: There is no such coding, or its parameters are out of range.
    """
    kind = header.byte()
    if kind == Coding.CONSTANT:
        value = header.byte()
        return lambda _: lambda count: np.full(count, value, np.uint8)
    if kind == Coding.BY_PLACE:
        levels = read_levels(header)
        tables = lookup([read_table(header) for _ in range(levels.tables)])
        return lambda payload: _Entropy(payload, tables, levels).read
    if kind in (Coding.BY_RUN, Coding.BY_RUN_REST) and pooled is not None:
        runs = read_runs(header, pooled)
        tables = lookup([read_table(header) for _ in range(runs.tables)])
        if kind == Coding.BY_RUN:
            return lambda payload: _Entropy(payload, tables, runs).read
        return lambda payload: _Entropy(payload, tables, runs).read_all
    if kind == Coding.REST and pooled is not None:
        return lambda payload: payload.rest
    if kind not in (Coding.RAW, Coding.ZSTD, Coding.ENTROPY):
        raise FormatError(f"the coded stream has a plane of the unknown coding {kind}")
    unpack = _unpacking(header)
    if kind == Coding.RAW:
        return lambda payload: unpack(lambda n: np.frombuffer(payload.source.read(n), np.uint8))
    if kind == Coding.ZSTD:
        return lambda payload: unpack(lambda n: _read_zstd(payload.source, n))
    table = lookup([read_table(header)])
    return lambda payload: unpack(_Entropy(payload, table).read)


def _read_zstd(source: Source, count: int) -> Plane:
    length = source.varint()
    if length > count + 64:
        raise FormatError(f"a zstd frame of {length} bytes is longer than its {count} symbols")
    return np.frombuffer(unzstd(source.read(length), count), np.uint8)


class _Entropy:
    """Reads entropy-coded symbols, and knows the place of the next one."""

    def __init__(self, payload: Payload, tables: Lookup, places: Contexts | None = None) -> None:
        if payload.lanes is None:
            raise FormatError("the coded stream has entropy-coded symbols in a block without lanes")
        self._lanes = payload.lanes
        self._source = payload.source
        self._tables = tables
        self._places = places
        self._at = 0

    def read(self, count: int) -> Plane:
        words = self._source.varint()
        if words > count:
            raise FormatError(f"{count} coded symbols cannot take {words} words")
        data = np.frombuffer(self._source.read(2 * words), "<u2")
        contexts = self._places.contexts(self._at, count) if self._places else None
        self._at += count
        return self._lanes.decode(self._tables, data, count, contexts)

    def read_all(self, count: int) -> Plane:
        """Reads a plane of which the lanes carry the last symbols as they are."""
        carried = self._lanes.carried(count)
        symbols = self.read(count - carried)
        rest = np.frombuffer(self._lanes.rest(carried), np.uint8)
        return np.concatenate([symbols, rest])


def read_table(header: Source) -> NDArray[np.int64]:
    """Reads the frequencies of a table.

    It is sent as first symbol, number of symbols - 1, step of the codes, differences of codes.

    Raises:
        FormatError: A value is out of range.
    """
    first, count, step = header.byte(), header.byte() + 1, header.byte()
    if first + count > SYMBOLS or step not in (1, 2, 4):
        raise FormatError(f"a probability table has {count} symbols from {first}, step {step}")
    changes = np.frombuffer(header.read(count), np.uint8).astype(np.int64)
    codes = np.zeros(SYMBOLS, np.int64)
    codes[first : first + count] = np.cumsum(unzigzag(changes))
    # 0 stays 0, "does not occur"; code c stands for (c - 1) steps above the rarest.
    codes = np.where(codes == 0, 0, (codes - 1) * step + 1)
    if codes.min() < 0 or codes.max() > MAX_CODE:
        raise FormatError("a probability table in the coded stream is out of range")
    return frequencies(codes.astype(np.uint8))


def unzigzag(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns 0, -1, 1, -2, 2, ... for 0, 1, 2, 3, 4, ..."""
    return (values >> 1) ^ -(values & 1)


def _unpacking(header: Source) -> Callable[[Reader], Reader]:
    """Reads a packing: k, and for k above 1 the number of symbols a."""
    together = header.byte()
    if together == 1:
        return lambda read: read
    alphabet = header.byte()
    if together < 1 or alphabet < 2 or alphabet**together > SYMBOLS:
        raise FormatError(f"{together} symbols below {alphabet} do not fit a byte")
    digits = unpacking_table(alphabet, together)

    def unpack(read: Reader) -> Reader:
        return lambda count: digits[read(-(-count // together))].reshape(-1)[:count]

    return unpack


def unpacking_table(alphabet: int, together: int) -> NDArray[np.uint8]:
    """Returns the symbols in each of the 256 bytes, shape (256, together), lowest digit first."""
    values = np.arange(SYMBOLS)[:, None] // alphabet ** np.arange(together)[None, :]
    digits: NDArray[np.uint8] = (values % alphabet).astype(np.uint8)
    return digits
