"""A coded stream back into a file, in pieces of a megabyte.

    stream   = form (1 byte), then by form
               0: one zstd frame without magic number, the file
               1: blocks until the file is complete
               2: the same; blocks may have pools
    block    = stored length (varint), length (varint), header, payload
    header   = lanes (varint), segments (varint), length of the records (varint), records, literals
    record   = method (1 byte), size in bytes (varint), what the method has
    payload  = states (4 bytes a lane), then slice by slice what the planes have

The header is a zstd frame where its stored length is less than its length, else as it is. A
segment's elements come in slices of `SLICE_BYTES`, the last one shorter; in each, the planes follow
each other in the order of the record. So a tensor of any size is decoded in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trimtab_agent.coding.methods import Base, Method, Segment, open_segment
from trimtab_agent.coding.pools import Pools
from trimtab_agent.coding.source import Source, unzstd
from trimtab_agent.coding.symbols import Payload
from trimtab_agent.errors import FormatError

ZSTD, BLOCKS, POOLED_BLOCKS = 0, 1, 2
"""Forms of a stream. Another number is a later version's."""

SLICE_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 18


def decode_stream(
    pieces: Iterable[bytes], size_bytes: int, *, base: Base | None = None
) -> Iterator[bytes]:
    """Yields the file that a stream stands for.

    It is bit-exact if the stream is; a damaged stream may also decode to other bytes, so that the
    caller must check the file's hash.

    Args:
        pieces: The stream, cut anywhere.
        size_bytes: Of the file.
        base: What a delta starts from; None if this is no delta.

    Yields:
        Consecutive pieces of at most `SLICE_BYTES`.

    Raises:
        FormatError: The stream is malformed, ends early or goes on after the file.
    """
    source = Source(pieces)
    form = source.byte()
    if form == ZSTD:
        yield from source.unzstd(size_bytes, piece_bytes=SLICE_BYTES)
        return
    if form not in (BLOCKS, POOLED_BLOCKS):
        raise FormatError(f"the coded stream has the unknown form {form}: update Trimtab")
    left = size_bytes
    while left:
        for piece in _block(source, left, base, has_pools=form == POOLED_BLOCKS):
            left -= len(piece)
            yield piece
    source.check_end()


def _block(
    source: Source, left_bytes: int, base: Base | None, *, has_pools: bool
) -> Iterator[bytes]:
    """Yields what a block holds; records are read as their turn comes, so that one is in memory."""
    header = _header(source)
    payload = Payload.open(source, header.varint())
    segments, records_bytes = header.varint(), header.varint()
    records = Source([header.read(records_bytes)])
    pools = Pools()
    for _ in range(segments):
        method, size_bytes = records.byte(), records.varint()
        if not 0 < size_bytes <= left_bytes:
            raise FormatError(f"a segment of {size_bytes} bytes where {left_bytes} are left")
        if method == Method.POOL and has_pools:
            pools.add(records, source, size_bytes)
            continue
        left_bytes -= size_bytes
        if method == Method.POOLED and has_pools:
            yield pools.take(records, size_bytes)
        elif method == Method.LITERAL:
            yield header.read(size_bytes)
        else:
            yield from _slices(Segment(records, payload, base, size_bytes), method)
    for part in (records, header, pools, payload):
        part.check_end()


def _header(source: Source) -> Source:
    stored, size_bytes = source.varint(), source.varint()
    if not stored <= size_bytes <= MAX_HEADER_BYTES:
        raise FormatError(
            f"a block's header of {size_bytes} bytes in {stored}; at most {MAX_HEADER_BYTES}"
        )
    data = source.read(stored)
    return Source([data if stored == size_bytes else unzstd(data, size_bytes)])


def _slices(segment: Segment, method: int) -> Iterator[bytes]:
    width, read = open_segment(segment, method)
    if segment.size_bytes % width:
        raise FormatError(f"a segment of {segment.size_bytes} bytes has elements of {width}")
    left = segment.size_bytes // width
    while left:
        count = min(left, SLICE_BYTES // width)
        yield read(count).tobytes()
        left -= count
