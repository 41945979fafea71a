"""Pieces of files to chunks as they travel, and back."""

from __future__ import annotations

import zstandard

from trimtab_agent.contract import chunks
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.errors import FormatError, IntegrityError

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


def decode_chunk(chunk: Chunk, wire: bytes) -> bytes:
    """Checks a chunk's bytes on the wire and decodes them.

    Args:
        chunk: Its entry in the manifest.
        wire: What was read or received.

    Returns:
        The piece of the file, `chunk.size_bytes` long.

    Raises:
        IntegrityError: Its length or hash differs, on the wire or decoded.
        FormatError: It is no zstd frame, or would decode to more than any chunk may.
    """
    chunks.verify_chunk(chunk, wire)
    if chunk.size_bytes > chunks.MAX_DECODED_BYTES:
        raise FormatError(
            f"chunk {chunk.sha256[:12]} decodes to {chunk.size_bytes} bytes; "
            f"at most {chunks.MAX_DECODED_BYTES} are allowed"
        )
    piece = wire if chunk.codec == "raw" else _unpack(chunk, wire)
    if len(piece) != chunk.size_bytes:
        raise IntegrityError(
            f"chunk {chunk.sha256[:12]} decodes to {len(piece)} bytes, not {chunk.size_bytes}"
        )
    return piece


def _unpack(chunk: Chunk, wire: bytes) -> bytes:
    """Decodes a zstd frame, never past one byte more than `chunk` promises."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(wire) as reader:
            # One more than promised, so that a longer frame shows. `max_output_size` of the
            # one-shot call is no bound: it is ignored when the frame's header holds a size.
            return reader.read(chunk.size_bytes + 1)
    except zstandard.ZstdError as error:
        raise FormatError(f"chunk {chunk.sha256[:12]} is no zstd frame: {error}") from error
