"""Pieces of files to chunks as they travel; `trimtab_agent.decode` is the way back."""

from __future__ import annotations

import zstandard

from trimtab_agent.contract import chunks
from trimtab_agent.contract.manifest import Chunk

ZSTD_LEVEL = 19
"""The smallest output that decodes in the default window. A package is encoded once and decoded
on every device, and zstd decodes at one speed whatever the level was."""


def encode_chunk(piece: bytes) -> tuple[Chunk, bytes]:
    """Encodes a piece of a file in the codec that makes it smaller.

    Args:
        piece: Consecutive bytes of a file.

    Returns:
        The chunk's entry in the manifest, and its bytes on the wire.
    """
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(piece)
    wire = packed if len(packed) < len(piece) else piece
    chunk = Chunk(
        sha256=chunks.sha256_hex(wire),
        wire_bytes=len(wire),
        size_bytes=len(piece),
        codec="raw" if wire is piece else "zstd",
    )
    return chunk, wire
