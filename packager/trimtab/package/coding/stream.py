"""A file to the stream that stands for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

from trimtab.package.coding.payload import Payload, varint
from trimtab.package.coding.planes import zstd_frame
from trimtab.package.coding.segment import Segment
from trimtab.package.coding.tensors import CodedTensor, Tensor, code_tensor, even_slices
from trimtab_agent.coding.methods import WIDTHS, Method
from trimtab_agent.coding.stream import BLOCKS, MAX_HEADER_BYTES, ZSTD

_BLOCK_BYTES = 1 << 18
"""Tensors this large have a block of their own, so that one that did not change is the same bytes
in another version; smaller ones share a block up to this size, for they share its lanes and its
header."""

_LITERAL_BYTES = 1 << 15
"""Longer structure is coded like a tensor of bytes: literals stand in the header, which is
bounded."""

_TINY_BYTES = 64
"""A tensor this small does not pay for a table."""

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
        return CodedStream(bytes([BLOCKS]))
    blocks = [_block(items) for items in _grouped(_items(data, segments))]
    parts = [bytes([BLOCKS]), *blocks]
    starts = np.cumsum([len(part) for part in parts])[:-1]
    coded = CodedStream(b"".join(parts), tuple(int(start) for start in starts))
    quick = len(zstd_frame(data, level=1))
    if quick > _HOPELESS * len(coded.data):
        return coded
    whole = bytes([ZSTD]) + zstd_frame(data, level=_ZSTD_LEVEL)
    return CodedStream(whole) if len(whole) < len(coded.data) else coded


def _items(data: bytes, segments: Sequence[Segment]) -> Iterator[_Item]:
    for segment in segments:
        piece = data[segment.start : segment.stop]
        if len(piece) <= _TINY_BYTES or (
            segment.kind == "structure" and len(piece) <= _LITERAL_BYTES
        ):
            yield _Item(piece, None)
            continue
        widths = WIDTHS if segment.kind == "unknown" else (segment.width,)
        coded = [_coded(piece, width, segment) for width in widths if len(piece) % width == 0]
        best = min(coded, key=lambda tensor: tensor.cost_bytes)
        yield _Item(piece, best)


def _coded(piece: bytes, width: int, segment: Segment) -> CodedTensor:
    elements = np.frombuffer(piece, f"<u{width}")
    slices = even_slices(elements.size, width)
    # Of what is unknown, four bytes are most likely a float32.
    is_float = width == 4 if segment.kind == "unknown" else segment.is_float
    shape = segment.shape
    if shape is not None and int(np.prod(shape)) != elements.size:
        shape = None
    return code_tensor(Tensor(elements, slices, is_float, shape))


def _grouped(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Yields the items of each block."""
    group: list[_Item] = []
    size = header = 0
    for item in items:
        record = len(item.tensor.record) if item.tensor else len(item.data)
        alone = len(item.data) >= _BLOCK_BYTES
        if group and (alone or size >= _BLOCK_BYTES or header + record > MAX_HEADER_BYTES // 2):
            yield group
            group, size, header = [], 0, 0
        group.append(item)
        size, header = size + len(item.data), header + record + 16
    if group:
        yield group


def _block(items: Sequence[_Item]) -> bytes:
    payload = Payload()
    records, literals = [], []
    for item in items:
        size = varint(len(item.data))
        if item.tensor is None:
            records.append(bytes([Method.LITERAL]) + size)
            literals.append(item.data)
            continue
        tensor = item.tensor
        records.append(tensor.record[:1] + size + tensor.record[1:])
        payload.raw(tensor.prologue)
        for start, stop in even_slices(len(item.data) // tensor.width, tensor.width):
            tensor.write(payload, start, stop)
    lanes, body = payload.finish()
    record = b"".join(records)
    header = bytes([lanes]) + varint(len(items)) + varint(len(record)) + record
    return _packed(header + b"".join(literals)) + body


def _packed(header: bytes) -> bytes:
    """Returns a header with its lengths, as a zstd frame if that is shorter."""
    frame = zstd_frame(header, level=zstandard.MAX_COMPRESSION_LEVEL)
    stored = frame if len(frame) < len(header) else header
    return varint(len(stored)) + varint(len(header)) + stored
