"""Files to chunks as they travel; `trimtab_agent.decode` is the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trimtab.package.coding.segments import segments
from trimtab.package.coding.stream import encode_stream
from trimtab_agent.contract import chunks
from trimtab_agent.contract.manifest import Chunk


def encode_file(
    path: str, contents: Mapping[str, bytes], limit_bytes: int
) -> Iterator[tuple[Chunk, bytes]]:
    """Codes one file and yields the chunks of its stream, with their bytes.

    Args:
        path: The file's path in the package.
        contents: All files of the package: one may hold the map of another.
        limit_bytes: No chunk is longer.
    """
    stream = encode_stream(contents[path], segments(path, contents))
    pieces = chunks.cuts(len(stream.data), boundaries=stream.boundaries, limit_bytes=limit_bytes)
    for piece in pieces:
        wire = stream.data[piece.start : piece.stop]
        yield Chunk(sha256=chunks.sha256_hex(wire), wire_bytes=len(wire)), wire
