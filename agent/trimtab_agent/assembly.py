"""Making a version's directory out of chunks: decode, check each file's hash, sync to the disk.

Decoding takes numpy and zstandard, so the agent runs this in a child process
(`trimtab_agent.installer`). It needs nothing but what an `Order` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from trimtab_agent.chunk_cache import ChunkCache
from trimtab_agent.contract.manifest import Chunk, PackageFile, parse_manifest
from trimtab_agent.decode import decode_file
from trimtab_agent.delta_base import FileBase
from trimtab_agent.durable import storage_errors, sync_directory
from trimtab_agent.errors import IntegrityError

MANIFEST = "manifest.json"


class Order(msgspec.Struct, kw_only=True, frozen=True):
    """What to make, and of what. Paths are absolute.

    Attributes:
        manifest: The verified manifest.
        directory: Where the files go: empty, and on the file system of `staging`.
        chunks: The chunk cache.
        staging: Its directory for unfinished files.
        bases: Files that deltas may start from, by their SHA-256. Somebody has just compared it.
    """

    manifest: bytes
    directory: str
    chunks: str
    staging: str
    bases: dict[str, str]


def assemble(order: Order, *, working: Callable[[], None] = lambda: None) -> None:
    """Writes a version's files, and all of it to the disk.

    Args:
        order: What to make.
        working: Called about once a megabyte, and between any two files.

    Raises:
        FormatError: The manifest or a chunk cannot be read.
        IntegrityError: A chunk is missing or damaged, or a file has another hash than the manifest
            says.
        StorageError: The disk is full or refuses. What was written so far is still there.
    """
    manifest = parse_manifest(order.manifest)
    directory = Path(order.directory)
    cache = ChunkCache(Path(order.chunks))
    with storage_errors(f"installing {manifest.name} {manifest.version}"):
        directory.chmod(0o755)  # mkdtemp's 0700 would hide the model from programs that use it
        _write_synced(directory / MANIFEST, [order.manifest])
        for file in manifest.files:
            path = directory / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(path, _told(_decode(file, order.bases, cache), working))
        for parent, _, _ in os.walk(directory):
            working()
            sync_directory(Path(parent))


def _decode(file: PackageFile, bases: dict[str, str], cache: ChunkCache) -> Iterator[bytes]:
    """Yields a file, out of a delta's chunks if there is one whose base and chunks are here."""

    def read(chunk: Chunk) -> bytes:
        try:
            return cache.read(chunk)
        except FileNotFoundError as error:
            raise IntegrityError(
                f"{file.path}: chunk {chunk.sha256[:12]} is not on this device"
            ) from error

    for delta in file.deltas:
        base = bases.get(delta.base_sha256)
        if base and all(cache.has(chunk) for chunk in delta.chunks):
            changed = msgspec.structs.replace(file, chunks=delta.chunks)
            with Path(base).open("rb") as content:
                yield from decode_file(changed, read, base=FileBase(content))
            return
    yield from decode_file(file, read)


def _told(pieces: Iterable[bytes], working: Callable[[], None]) -> Iterator[bytes]:
    """Yields the same pieces, and says after each that the work goes on."""
    working()
    for piece in pieces:
        yield piece
        working()


def _write_synced(path: Path, pieces: Iterable[bytes]) -> None:
    """Writes a new file, read-only from then on, and puts it on the disk."""
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
