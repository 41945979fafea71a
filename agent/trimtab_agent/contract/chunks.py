"""How coded files are cut into chunks that fit one MQTT message and are named by their hash.

What is cut is the stream that the weight codec makes of a file. A chunk is named by the SHA-256 of
its bytes: a device checks the hash before it decodes anything. Cuts may fall anywhere: a device
joins what the manifest lists. So a packager is free to cut where tensors begin, which is what
makes an update that changes some layers send only those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from trimtab_agent.contract.manifest import Chunk, PackageFile
from trimtab_agent.errors import CallerError, IntegrityError

DEFAULT_CHUNK_BYTES = 96 * 1024
"""Largest chunk on the wire. A common cloud limit is 128 KiB a message, and chunks under 64 KiB
are slow; 96 KiB leaves room for topic and properties."""

MAX_CHUNK_BYTES = 4 * 1024 * 1024
"""Largest chunk that a packager makes or a reader takes."""


def sha256_hex(data: bytes) -> str:
    """Returns the SHA-256 of `data` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def cuts(size_bytes: int, *, boundaries: Iterable[int] = (), limit_bytes: int) -> Iterator[range]:
    """Yields the byte ranges of the pieces of a stream, in order, together all of it.

    Args:
        size_bytes: Length of the stream.
        boundaries: Offsets where a cut is wanted, such as the starts of blocks. A boundary
            that would leave a piece under a quarter of `limit_bytes` is passed over: small
            chunks cost more in headers than they save.
        limit_bytes: No piece is longer.

    Raises:
        CallerError: `limit_bytes` is not positive.
    """
    if limit_bytes <= 0:
        raise CallerError(f"chunk limit must be positive, got {limit_bytes}")
    start = 0
    for boundary in [*sorted({b for b in boundaries if 0 < b < size_bytes}), size_bytes]:
        if boundary - start < limit_bytes // 4 and boundary != size_bytes:
            continue
        while boundary - start > limit_bytes:
            yield range(start, start + limit_bytes)
            start += limit_bytes
        if boundary > start:
            yield range(start, boundary)
            start = boundary


def verify_chunk(chunk: Chunk, wire: bytes) -> None:
    """Checks a chunk's bytes.

    Raises:
        IntegrityError: The length or the hash differs.
    """
    if len(wire) != chunk.wire_bytes:
        raise IntegrityError(
            f"chunk {chunk.sha256[:12]} has {len(wire)} bytes on the wire, not {chunk.wire_bytes}"
        )
    actual = sha256_hex(wire)
    if actual != chunk.sha256:
        raise IntegrityError(f"chunk {chunk.sha256[:12]} has the SHA-256 {actual[:12]}...")


def distinct_chunks(files: Iterable[PackageFile]) -> list[Chunk]:
    """Returns the chunks that make up `files` in order of first use, each hash once.

    Deltas are left aside: this is what a device needs that has nothing.
    """
    return _distinct(chunk for file in files for chunk in file.chunks)


def all_chunks(files: Iterable[PackageFile]) -> list[Chunk]:
    """Returns the chunks of `files` and of their deltas, each hash once."""
    found: list[Chunk] = []
    for file in files:
        found.extend(file.chunks)
        found.extend(chunk for delta in file.deltas for chunk in delta.chunks)
    return _distinct(found)


def _distinct(chunks: Iterable[Chunk]) -> list[Chunk]:
    return list({chunk.sha256: chunk for chunk in chunks}.values())
