"""Chunks from the wire to the bytes of a file, with a bound on what a hostile one can allocate."""

from __future__ import annotations

import zstandard

from trimtab_agent.contract.chunks import MAX_DECODED_BYTES, verify_chunk
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.errors import FormatError, IntegrityError

_MAX_WINDOW_BYTES = 8 * 1024 * 1024
"""zstd's own limit for decoders in low memory: RFC 8878, section 3.1.1.1.2 (window descriptor)."""


def decode_chunk(chunk: Chunk, wire: bytes) -> bytes:
    """Checks a chunk and returns the piece of the file that it holds.

    Args:
        chunk: What the manifest says of it.
        wire: The bytes as they came.

    Returns:
        Exactly `chunk.size_bytes` bytes.

    Raises:
        IntegrityError: The hash or a length differs from the manifest, or the chunk claims to
            be larger than any chunk may be.
        FormatError: The bytes are no zstd frame though the manifest says so.
    """
    name = chunk.sha256[:12]
    if chunk.size_bytes > MAX_DECODED_BYTES:
        raise IntegrityError(
            f"chunk {name} claims {chunk.size_bytes} bytes; at most {MAX_DECODED_BYTES} are allowed"
        )
    verify_chunk(chunk, wire)
    data = wire if chunk.codec == "raw" else _unzstd(wire, chunk.size_bytes, name)
    if len(data) != chunk.size_bytes:
        raise IntegrityError(f"chunk {name} does not decode to its {chunk.size_bytes} bytes")
    return data


def _unzstd(wire: bytes, size_bytes: int, name: str) -> bytes:
    """Decodes one zstd frame, stopping one byte past `size_bytes`."""
    # The one-shot decompress() would allocate whatever the frame's header claims.
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with decoder.stream_reader(wire) as reader:
            return reader.read(size_bytes + 1)
    except zstandard.ZstdError as error:
        raise FormatError(f"chunk {name} is not a readable zstd frame: {error}") from error
