"""Files to chunks as they travel; `trimtab_agent.decode` is the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trimtab.package.coding.segments import segments
from trimtab.package.coding.stream import CodedStream, encode_delta, encode_stream
from trimtab_agent.contract import chunks
from trimtab_agent.contract.manifest import Chunk

Chunks = list[tuple[Chunk, bytes]]
"""Chunks of a stream in order, with their bytes."""

_WORTH = 0.9
"""A delta must need fewer bytes than this share of those that a device would fetch without it."""


def encode_file(path: str, contents: Mapping[str, bytes], limit_bytes: int) -> Chunks:
    """Codes one file.

    Args:
        path: The file's path in the package.
        contents: All files of the package: one may hold the map of another.
        limit_bytes: No chunk is longer.
    """
    stream = encode_stream(contents[path], segments(path, contents))
    return list(_cut(stream, limit_bytes))


def encode_change(
    path: str,
    contents: Mapping[str, bytes],
    base: Mapping[str, bytes],
    limit_bytes: int,
) -> Chunks:
    """Codes one file as what changed since another version of it.

    Args:
        path: The file's path in both packages.
        contents: All files of the package.
        base: All files of the other.
        limit_bytes: No chunk is longer.
    """
    stream = encode_delta(
        contents[path], segments(path, contents), base[path], segments(path, base)
    )
    return list(_cut(stream, limit_bytes))


def is_worth(delta: Chunks, whole: Chunks, there: set[str]) -> bool:
    """Says whether a delta saves a device enough.

    Args:
        delta: Its chunks.
        whole: Those of the file.
        there: Hashes of the chunks that a device with the base has.
    """
    needed = sum(chunk.wire_bytes for chunk, _ in whole if chunk.sha256 not in there)
    return sum(chunk.wire_bytes for chunk, _ in delta) < _WORTH * needed


def _cut(stream: CodedStream, limit_bytes: int) -> Iterator[tuple[Chunk, bytes]]:
    pieces = chunks.cuts(len(stream.data), boundaries=stream.boundaries, limit_bytes=limit_bytes)
    for piece in pieces:
        wire = stream.data[piece.start : piece.stop]
        yield Chunk(sha256=chunks.sha256_hex(wire), wire_bytes=len(wire)), wire
