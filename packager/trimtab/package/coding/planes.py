"""A plane of one-byte symbols, in the coding that makes it smallest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from trimtab.package.coding.levels import proposals
from trimtab.package.coding.payload import Payload, Tables, varint
from trimtab_agent.coding.contexts import Levels
from trimtab_agent.coding.symbols import Coding
from trimtab_agent.coding.tables import MAX_CODE, STEPS, SYMBOLS, frequencies

Symbols = NDArray[np.uint8]
Slices = Sequence[tuple[int, int]]
"""Start and stop of the pieces in which elements are written."""

_WORTH_DECODING = 0.996
"""Entropy coding decodes ten times slower than zstd and a hundred times slower than raw bytes: it
must make a plane smaller by this factor."""

_TABLE_SHARE = 0.4
"""About how much of a table's bytes is left once the block's header is packed."""

_BY_PLACE_SYMBOLS = 1 << 14
"""Smaller planes do not pay for several tables."""

_THOROUGH_BYTES = 1 << 17
"""Up to here zstd is used at its highest level."""

_SAMPLE, _SAMPLES = 1 << 14, 8
"""Length and number of the samples of a larger plane that show whether zstd finds repetitions."""

_NEAR = 1.2
"""zstd at a fast level must come this near to the best so far before it is tried at a slow one."""


@dataclass(frozen=True)
class CodedPlane:
    """A plane and how to write it.

    Attributes:
        header: Its description, as in the block's header.
        cost_bytes: About what it takes in the stream.
        write: Puts the symbols of a slice, from its start to its stop, into a payload.
    """

    header: bytes
    cost_bytes: float
    write: Callable[[Payload, int, int], None]


def code_plane(
    symbols: Symbols, slices: Slices, shape: tuple[int, ...] | None = None
) -> CodedPlane:
    """Codes a plane in the cheapest way.

    Args:
        symbols: All of it.
        slices: From where to where they are written at a time.
        shape: Of the tensor that has a symbol of this plane in each element; None if places mean
            nothing.
    """
    counts = np.bincount(symbols, minlength=SYMBOLS)
    if symbols.size == 0 or counts.max() == symbols.size:
        value = int(counts.argmax())
        return CodedPlane(bytes([Coding.CONSTANT, value]), 0.1, lambda *_: None)
    cheap = min(_plain(symbols, counts), key=_cost)
    coded = min(_entropy_coded(symbols, counts, shape, slices), key=_cost)
    if _repeats(symbols, min(_cost(cheap), _cost(coded))):
        cheap = min(cheap, zstd_plane(symbols, slices), key=_cost)
    return coded if _cost(coded) < _WORTH_DECODING * _cost(cheap) else cheap


def _cost(plane: CodedPlane) -> float:
    return plane.cost_bytes


def _repeats(symbols: Symbols, cost_bytes: float) -> bool:
    """Says whether zstd may come near the cost, by what it makes of samples."""
    if symbols.size <= _THOROUGH_BYTES:
        limit = _NEAR * cost_bytes
        return len(zstd_frame(symbols.tobytes(), level=3)) < limit
    step = symbols.size // _SAMPLES
    samples = [symbols[at : at + _SAMPLE].tobytes() for at in range(0, symbols.size, step)]
    packed = sum(len(zstd_frame(sample, level=3)) for sample in samples)
    share = cost_bytes / symbols.size
    return packed < _NEAR * share * sum(map(len, samples))


def _plain(symbols: Symbols, counts: NDArray[np.int64]) -> Iterator[CodedPlane]:
    """Yields the bytes as they are, and several in a byte."""
    yield _raw(symbols, _Packing(2, 1))
    alphabet = int(counts.nonzero()[0][-1]) + 1
    for bits in (1, 2, 4):
        if alphabet <= 1 << bits:
            yield _raw(symbols, _Packing(1 << bits, 8 // bits))


def _entropy_coded(
    symbols: Symbols,
    counts: NDArray[np.int64],
    shape: tuple[int, ...] | None,
    slices: Slices,
) -> Iterator[CodedPlane]:
    for step in (1, 2, 4):
        yield _entropy(symbols, _Packing(2, 1), counts, step)
    alphabet = int(counts.nonzero()[0][-1]) + 1
    for together in range(2, 9):
        if alphabet**together > SYMBOLS:
            break
        packing = _Packing(alphabet, together)
        packed = np.bincount(packing.packed(symbols, slices), minlength=SYMBOLS)
        if packed.max() < packed.sum():
            yield _entropy(symbols, packing, packed, 2)
    if shape is not None and symbols.size >= _BY_PLACE_SYMBOLS:
        for levels in proposals(symbols, shape):
            yield _by_place(symbols, levels)


@dataclass(frozen=True)
class _Packing:
    """`together` symbols below `alphabet` in a byte; 1 for each in its own."""

    alphabet: int
    together: int

    @property
    def header(self) -> bytes:
        if self.together == 1:
            return b"\x01"
        return bytes([self.together, self.alphabet])

    def pack(self, symbols: Symbols) -> Symbols:
        if self.together == 1:
            return symbols
        groups = -(-symbols.size // self.together)
        padded = np.zeros(groups * self.together, np.uint8)
        padded[: symbols.size] = symbols
        digits = padded.reshape(groups, self.together)
        packed = np.zeros(groups, np.uint8)
        for column in reversed(range(self.together)):
            packed = packed * np.uint8(self.alphabet) + digits[:, column]
        return packed

    def packed(self, symbols: Symbols, slices: Slices) -> Symbols:
        """Packs all of a plane: slices begin with a byte of their own."""
        return np.concatenate([self.pack(symbols[start:stop]) for start, stop in slices])


def _raw(symbols: Symbols, packing: _Packing) -> CodedPlane:
    def write(payload: Payload, start: int, stop: int) -> None:
        payload.raw(packing.pack(symbols[start:stop]).tobytes())

    header = bytes([Coding.RAW]) + packing.header
    return CodedPlane(header, symbols.size / packing.together, write)


def zstd_plane(symbols: Symbols, slices: Slices) -> CodedPlane:
    """Codes a plane with zstd: at its highest level where that is quick, else at a fast one."""
    level = 19 if symbols.size <= _THOROUGH_BYTES else 3
    frames = {
        (start, stop): zstd_frame(symbols[start:stop].tobytes(), level=level)
        for start, stop in slices
    }

    def write(payload: Payload, start: int, stop: int) -> None:
        frame = frames[start, stop]
        payload.raw(varint(len(frame)) + frame)

    cost = sum(len(frame) for frame in frames.values())
    return CodedPlane(bytes([Coding.ZSTD]) + b"\x01", cost, write)


def zstd_frame(data: bytes, *, level: int, prefix: bytes = b"") -> bytes:
    """Returns one zstd frame without magic number, content size and checksum.

    Args:
        data: What to pack.
        level: zstd's.
        prefix: Content that the frame may refer back to.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(data),
        dict_size=len(prefix),
        write_content_size=False,
        write_dict_id=False,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
    )
    dictionary = (
        zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        if prefix
        else None
    )
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress(
        data
    )


def _entropy(
    symbols: Symbols, packing: _Packing, counts: NDArray[np.int64], step: int
) -> CodedPlane:
    table, header = make_table(counts, step)
    tables = Tables.of(table[None, :])

    def write(payload: Payload, start: int, stop: int) -> None:
        payload.symbols(packing.pack(symbols[start:stop]), tables, None)

    cost = tables.cost_bytes(counts[None, :]) + len(header) * _TABLE_SHARE
    return CodedPlane(bytes([Coding.ENTROPY]) + packing.header + header, cost, write)


def _by_place(symbols: Symbols, levels: Levels) -> CodedPlane:
    contexts = levels.contexts(0, symbols.size)
    joint = contexts.astype(np.int32) << 8 | symbols
    counts = np.bincount(joint, minlength=levels.tables * SYMBOLS).reshape(-1, SYMBOLS)
    made = [make_table(row, 4) for row in counts]
    tables = Tables.of(np.stack([table for table, _ in made]))

    def write(payload: Payload, start: int, stop: int) -> None:
        payload.symbols(symbols[start:stop], tables, levels.contexts(start, stop - start))

    sizes = (varint(levels.rows.size), varint(levels.columns.size))
    parts = (*sizes, levels.rows.tobytes(), levels.columns.tobytes(), *(h for _, h in made))
    header = bytes([Coding.BY_PLACE]) + b"".join(parts)
    cost = tables.cost_bytes(counts) + len(header) * _TABLE_SHARE
    return CodedPlane(header, cost, write)


def make_table(counts: NDArray[np.int64], step: int) -> tuple[NDArray[np.int64], bytes]:
    """Makes a probability table.

    Args:
        counts: How often each of 256 symbols occurs.
        step: Eighths of an octave between codes: 1, 2 or 4.

    Returns:
        The frequencies that the decoder will see, and the table as it is sent.
    """
    counts = counts.copy()
    if np.count_nonzero(counts) < 2:
        # The decoder's arithmetic needs two symbols; the second never occurs.
        counts[:2] += counts[:2] == 0
    present = counts > 0
    top = int(counts.max())
    octaves = np.log2(np.maximum(counts, top / 2 ** (MAX_CODE / STEPS - 1)) / top)
    finest = np.rint(octaves * STEPS / step).astype(np.int64)
    codes = np.where(present, finest - finest[present].min() + 1, 0)
    first, last = present.nonzero()[0][[0, -1]]
    changes = np.diff(codes[first : last + 1], prepend=0)
    zigzag = (changes << 1 ^ changes >> 63).astype(np.uint8)
    table = frequencies(np.where(present, (codes - 1) * step + 1, 0).astype(np.uint8))
    return table, bytes([first, last - first, step]) + zigzag.tobytes()
