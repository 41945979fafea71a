"""A file to the stream that stands for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

from trimtab.package.coding.deltas import Pairs, code_difference, code_patch, copied
from trimtab.package.coding.payload import Payload, varint
from trimtab.package.coding.planes import zstd_frame
from trimtab.package.coding.pools import make_pools
from trimtab.package.coding.segment import Segment
from trimtab.package.coding.tensors import CodedTensor, Tensor, code_tensor, even_slices
from trimtab_agent.coding.methods import WIDTHS, Method
from trimtab_agent.coding.stream import MAX_HEADER_BYTES, POOLED_BLOCKS, ZSTD

_BLOCK_BYTES = 1 << 19
"""Tensors this large have a block of their own, so that one that did not change is the same bytes
in another version; smaller ones share a block up to this size, for they share its lanes and its
header."""

_DELTA_BLOCK_BYTES = 1 << 26
"""Nothing of a delta recurs in another, so that its blocks may be as large as the lanes like; the
host holds one in memory."""

_LITERAL_BYTES = 1 << 15
"""Longer structure is coded like a tensor of bytes: literals stand in the header, which is
bounded."""

_TINY_BYTES = 64
"""A tensor this small does not pay for a table."""

_SURELY_SMALLER = 0.3
"""A difference this small, as a share of the tensor, is not compared with the tensor itself."""

_ZSTD_LEVEL = 19
"""The smallest output that decodes in the default window. A file is coded once and decoded on every
device, and zstd decodes at one speed whatever the level was."""

_HOPELESS = 1.6
"""zstd's highest level is tried on a whole file only where its fastest comes within this factor:
it makes at most a third less of anything met so far."""


@dataclass(frozen=True)
class CodedStream:
    """A stream.

    Attributes:
        data: All of it.
        boundaries: Where blocks begin: where it should be cut, so that versions share chunks.
    """

    data: bytes
    boundaries: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Item:
    """A segment as it goes into a block; `tensor` is None for a literal."""

    data: bytes
    tensor: CodedTensor | None


def encode_stream(data: bytes, segments: Sequence[Segment]) -> CodedStream:
    """Codes a file.

    Args:
        data: All of it.
        segments: What it consists of, in order, without gaps.

    Returns:
        The smaller of blocks by segments and one zstd frame for all.
    """
    if not data:
        return CodedStream(bytes([POOLED_BLOCKS]))
    blocks = [_block(items) for items in _grouped(_items(data, segments), _BLOCK_BYTES)]
    parts = [bytes([POOLED_BLOCKS]), *blocks]
    starts = np.cumsum([len(part) for part in parts])[:-1]
    coded = CodedStream(b"".join(parts), tuple(int(start) for start in starts))
    quick = len(zstd_frame(data, level=1))
    if quick > _HOPELESS * len(coded.data):
        return coded
    whole = bytes([ZSTD]) + zstd_frame(data, level=_ZSTD_LEVEL)
    return CodedStream(whole) if len(whole) < len(coded.data) else coded


def encode_delta(
    data: bytes, segments: Sequence[Segment], base: bytes, base_segments: Sequence[Segment]
) -> CodedStream:
    """Codes a file as what changed since another version of it.

    Args:
        data: All of the file.
        segments: What it consists of.
        base: All of the other version.
        base_segments: What that consists of.
    """
    items = _changed(data, segments, Pairs(base, base_segments))
    parts = [
        bytes([POOLED_BLOCKS]),
        *(_block(group) for group in _grouped(items, _DELTA_BLOCK_BYTES)),
    ]
    return CodedStream(b"".join(parts))


def _items(data: bytes, segments: Sequence[Segment]) -> Iterator[_Item]:
    for segment in segments:
        piece = data[segment.start : segment.stop]
        yield _Item(piece, None if _is_literal(segment) else _code(piece, segment))


def _is_literal(segment: Segment) -> bool:
    size = segment.stop - segment.start
    return size <= _TINY_BYTES or (segment.kind == "structure" and size <= _LITERAL_BYTES)


def _changed(data: bytes, segments: Sequence[Segment], pairs: Pairs) -> Iterator[_Item]:
    """Yields the items of a delta; copied pieces that follow each other in both files are one."""
    run = _Run(data)
    for segment in segments:
        piece = data[segment.start : segment.stop]
        pair = pairs.find(segment, piece)
        if pair and pair[0]:
            yield from run.copy(segment.start, segment.stop, pair[1])
            continue
        yield from run.end()
        if pair is None or len(piece) <= _TINY_BYTES:
            tensor = None if _is_literal(segment) else _code(piece, segment)
        else:
            tensor = _code_change(piece, segment, pair[1], pair[2])
        yield _Item(piece, tensor)
    yield from run.end()


class _Run:
    """Pieces that are copied and follow each other in both files, joined."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._start = self._stop = self._at = 0

    def copy(self, start: int, stop: int, at: int) -> Iterator[_Item]:
        """Takes a piece that stands at `at` in the base; yields the run before if it is none."""
        if self._at + (start - self._start) != at or self._stop != start:
            yield from self.end()
            self._start, self._at = start, at
        self._stop = stop

    def end(self) -> Iterator[_Item]:
        """Yields the run and begins anew."""
        if self._start < self._stop:
            yield _Item(self._data[self._start : self._stop], copied(self._at))
        self._start = self._stop


def _code_change(piece: bytes, segment: Segment, at: int, before: bytes) -> CodedTensor | None:
    """Codes what has a counterpart: as a difference, as a patch, or without it."""
    changes = []
    if segment.kind != "tensor":
        changes.append(code_patch(piece, before, at))
    if segment.kind != "structure" and len(before) == len(piece):
        changes.append(code_difference(piece, before, at, segment))
    best = min(changes, key=lambda tensor: tensor.cost_bytes)
    if _is_literal(segment) or best.cost_bytes < _SURELY_SMALLER * len(piece):
        return best
    return min(best, _code(piece, segment), key=lambda tensor: tensor.cost_bytes)


def _code(piece: bytes, segment: Segment) -> CodedTensor:
    widths = WIDTHS if segment.kind == "unknown" else (segment.width,)
    coded = [_coded(piece, width, segment) for width in widths if len(piece) % width == 0]
    return min(coded, key=lambda tensor: tensor.cost_bytes)


def _coded(piece: bytes, width: int, segment: Segment) -> CodedTensor:
    elements = np.frombuffer(piece, f"<u{width}")
    slices = even_slices(elements.size, width)
    # Of what is unknown, four bytes are most likely a float32.
    is_float = width == 4 if segment.kind == "unknown" else segment.is_float
    shape = segment.shape
    if shape is not None and int(np.prod(shape)) != elements.size:
        shape = None
    return code_tensor(Tensor(elements, slices, is_float, shape))


def _grouped(items: Iterable[_Item], block_bytes: int) -> Iterator[list[_Item]]:
    """Yields the items of each block."""
    group: list[_Item] = []
    size = header = 0
    for item in items:
        record = len(item.tensor.record) if item.tensor else len(item.data)
        alone = len(item.data) >= block_bytes
        if group and (alone or size >= block_bytes or header + record > MAX_HEADER_BYTES // 2):
            yield group
            group, size, header = [], 0, 0
        group.append(item)
        size, header = size + len(item.data), header + record + 16
    if group:
        yield group


def _block(items: Sequence[_Item]) -> bytes:
    payload = Payload()
    literals = []
    pools = make_pools([item.tensor for item in items])
    pool_of = {place: number for number, pool in enumerate(pools) for place in pool.members}
    records = [pool.record for pool in pools]
    payload.raw(b"".join(pool.body for pool in pools))
    alone = 0
    for place, item in enumerate(items):
        size = varint(len(item.data))
        if place in pool_of:
            records.append(bytes([Method.POOLED]) + size + bytes([pool_of[place]]))
            continue
        alone += len(item.data)
        if item.tensor is None:
            records.append(bytes([Method.LITERAL]) + size)
            literals.append(item.data)
            continue
        tensor = item.tensor
        records.append(tensor.record[:1] + size + tensor.record[1:])
        payload.raw(tensor.prologue)
        for start, stop in even_slices(len(item.data) // tensor.width, tensor.width):
            tensor.write(payload, start, stop)
    lanes, body = payload.finish(alone)
    record = b"".join(records)
    header = varint(lanes) + varint(len(records)) + varint(len(record)) + record
    return _packed(header + b"".join(literals)) + body


def _packed(header: bytes) -> bytes:
    """Returns a header with its lengths, as a zstd frame if that is shorter."""
    frame = zstd_frame(header, level=zstandard.MAX_COMPRESSION_LEVEL)
    stored = frame if len(frame) < len(header) else header
    return varint(len(stored)) + varint(len(header)) + stored
