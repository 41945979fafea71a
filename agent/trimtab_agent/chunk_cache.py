"""Chunks on this device's disk, as they travelled, many to a file.

    chunks/<number>.pack    records, one after the other

    record: 4 bytes    b"TTCR"
            4 bytes    length of the chunk, unsigned, big-endian
            32 bytes   its SHA-256
            the chunk

A pack is only ever appended to, by one process, or replaced whole. Making a file costs a file
system more than all else that is done with a chunk of 96 KiB: packs took a third of the time.

Nothing is synced, which would take longer than fetching on an SD card. After a power cut a pack may
end anywhere or have holes: it counts up to the first record that makes no sense, and a chunk counts
if it has the right hash.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from trimtab_agent.contract.chunks import MAX_CHUNK_BYTES, verify_chunk
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import IntegrityError, StorageError

PACK_BYTES = 64 * 1024 * 1024
"""A pack that is so long gets nothing more. It bounds what is copied to clear one up."""

LARGEST_WASTE = 0.25
"""Share of a pack that may be chunks which nobody wants, before it is written anew without them."""

_HEADER = struct.Struct(">4sI32s")
_MAGIC = b"TTCR"


class _Place(NamedTuple):
    """Where a chunk's bytes are."""

    pack: Path
    offset: int
    size_bytes: int
    checked: bool
    """Whether this process has written it, or read it with the right hash."""


class ChunkCache:
    """A directory of packs. One process at a time may change it; others may read.

    Args:
        directory: The directory, which exists.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, _Place] | None = None
        self._pack: _Pack | None = None

    @property
    def _places(self) -> dict[str, _Place]:
        """Where each chunk is. What was packed last counts: it may replace a damaged one."""
        if self._known is None:
            with storage_errors(f"looking into {self._directory}"):
                self._known = {
                    sha256: place
                    for pack in _packs(self._directory)
                    for sha256, place in scan(pack)
                }
        return self._known

    def has(self, chunk: Chunk) -> bool:
        """Says whether the chunk is here and whole; it is read once for that, and not again.

        Raises:
            StorageError: The disk refuses.
        """
        place = self._places.get(chunk.sha256)
        if place is None or place.checked:
            return place is not None
        try:
            self.read(chunk)
        except (FileNotFoundError, IntegrityError):
            return False
        return True

    def read(self, chunk: Chunk) -> bytes:
        """Returns the chunk's bytes as they travelled.

        Raises:
            FileNotFoundError: It is not here.
            IntegrityError: It was damaged on the disk, and is not here any more.
            StorageError: The disk refuses.
        """
        with storage_errors(f"reading chunk {chunk.sha256[:12]}"):
            place = self._places.get(chunk.sha256)
            wire = None if place is None else _read(place)
        if place is None or wire is None:
            self._forget(chunk)
            raise FileNotFoundError(self._directory / chunk.sha256)
        try:
            verify_chunk(chunk, wire)
        except IntegrityError:
            self._forget(chunk)
            raise
        self._places[chunk.sha256] = place._replace(checked=True)
        return wire

    def _forget(self, chunk: Chunk) -> None:
        self._places.pop(chunk.sha256, None)

    def put(self, chunk: Chunk, wire: bytes) -> None:
        """Keeps a chunk whose hash has been checked.

        Raises:
            StorageError: The disk is full or refuses; nothing is left behind.
        """
        with storage_errors(f"writing chunk {chunk.sha256[:12]}"):
            places = self._places
            if self._pack is None or self._pack.size_bytes >= PACK_BYTES:
                self._finish_pack()
                self._pack = _Pack.create(self._directory)
            places[chunk.sha256] = self._pack.append(chunk.sha256, wire)

    def keep_only(self, wanted: Collection[str]) -> None:
        """Removes the chunks whose hash is not in `wanted`.

        Packs with little else than wanted chunks stay as they are, and so do those that there is
        no room to copy.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"clearing {self._directory}"):
            self._finish_pack()
            kept: dict[Path, list[str]] = {pack: [] for pack in _packs(self._directory)}
            for sha256, place in self._places.items():
                if sha256 in wanted:
                    kept[place.pack].append(sha256)
            for pack, names in kept.items():
                if not names:
                    pack.unlink()
            for pack, names in kept.items():
                if names:
                    self._compact(pack, names)
        self._known = None  # a device with nothing to do need not have it in memory

    def _compact(self, pack: Path, names: list[str]) -> None:
        """Writes a pack anew with these chunks only, if that saves enough."""
        size_bytes = pack.stat().st_size
        live_bytes = sum(self._places[name].size_bytes + _HEADER.size for name in names)
        if size_bytes - live_bytes <= LARGEST_WASTE * size_bytes:
            return
        copy = _Pack.create(self._directory)
        try:
            for name in names:
                wire = _read(self._places[name])
                if wire is not None:
                    copy.append(name, wire)
        except OSError:  # no room: it is tried again when there is less to keep
            copy.close()
            copy.path.unlink()
        else:
            copy.close()
            pack.unlink()

    def _finish_pack(self) -> None:
        if self._pack:
            self._pack.close()
        self._pack = None

    def close(self) -> None:
        """Closes the pack that is being written. The cache may be used again."""
        with storage_errors(f"closing {self._directory}"):
            self._finish_pack()

    def __del__(self) -> None:
        with contextlib.suppress(StorageError):
            self.close()


class _Pack:
    """A pack that is being written."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.size_bytes = 0
        self._descriptor = descriptor

    @classmethod
    def create(cls, directory: Path) -> _Pack:
        """Makes a pack behind those that are there."""
        last = max((int(pack.stem) for pack in _packs(directory)), default=0)
        path = directory / f"{last + 1:08}.pack"
        return cls(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600))

    def append(self, sha256: str, wire: bytes) -> _Place:
        """Appends a record, or leaves the pack as it was."""
        header = _HEADER.pack(_MAGIC, len(wire), bytes.fromhex(sha256))
        try:
            written = os.writev(self._descriptor, [header, wire])
            while written < len(header) + len(wire):  # a disk that fills takes a part first
                written += os.write(self._descriptor, (header + wire)[written:])
        except OSError:
            os.ftruncate(self._descriptor, self.size_bytes)
            raise
        place = _Place(self.path, self.size_bytes + len(header), len(wire), checked=True)
        self.size_bytes += written
        return place

    def close(self) -> None:
        os.close(self._descriptor)


def _packs(directory: Path) -> list[Path]:
    """Returns the packs in the order in which they were made."""
    return sorted(path for path in directory.glob("*.pack") if path.stem.isdecimal())


def scan(pack: Path) -> Iterator[tuple[str, _Place]]:
    """Yields what a pack says that it has, up to the first record that makes no sense."""
    with pack.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        offset = 0
        while offset + _HEADER.size <= end:
            magic, size_bytes, digest = _HEADER.unpack(
                os.pread(file.fileno(), _HEADER.size, offset)
            )
            offset += _HEADER.size
            if magic != _MAGIC or size_bytes > min(MAX_CHUNK_BYTES, end - offset):
                return
            yield digest.hex(), _Place(pack, offset, size_bytes, checked=False)
            offset += size_bytes


def _read(place: _Place) -> bytes | None:
    """Returns the bytes at a place, or None if the pack is gone."""
    try:
        with place.pack.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), place.size_bytes, place.offset)
    except FileNotFoundError:
        return None
