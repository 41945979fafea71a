"""Chunks from the wire to the bytes of a file, checked on the way in and on the way out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from trimtab_agent.contract.chunks import MAX_CHUNK_BYTES, verify_chunk
from trimtab_agent.contract.manifest import Chunk, PackageFile
from trimtab_agent.errors import IntegrityError

if TYPE_CHECKING:
    from trimtab_agent.coding.methods import Base


def decode_file(
    file: PackageFile, read: Callable[[Chunk], bytes], *, base: Base | None = None
) -> Iterator[bytes]:
    """Yields the content of a file.

    What has been yielded is the file only when the last piece has come without an error: the
    file's hash is known at its end.

    Args:
        file: What the manifest says of it.
        read: Gives a chunk's bytes.
        base: What the file's chunks start from if they are a delta's.

    Yields:
        Consecutive pieces of about a megabyte.

    Raises:
        IntegrityError: A chunk or the file has another length or hash than the manifest says.
        FormatError: The chunks are no coded stream.
    """
    # Here, not above: an agent that waits for work has no use for numpy's 17 MB.
    from trimtab_agent.coding.stream import decode_stream

    digest = hashlib.sha256()
    for piece in decode_stream(_checked(file, read), file.size_bytes, base=base):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != file.sha256:
        raise IntegrityError(
            f"file {file.path!r} has the SHA-256 {digest.hexdigest()[:12]}..., "
            f"the manifest says {file.sha256[:12]}..."
        )


def _checked(file: PackageFile, read: Callable[[Chunk], bytes]) -> Iterator[bytes]:
    for chunk in file.chunks:
        if chunk.wire_bytes > MAX_CHUNK_BYTES:
            raise IntegrityError(
                f"chunk {chunk.sha256[:12]} claims {chunk.wire_bytes} bytes; "
                f"at most {MAX_CHUNK_BYTES} are allowed"
            )
        wire = read(chunk)
        verify_chunk(chunk, wire)
        yield wire
