"""Chunks on this device's disk, named by the hash of their bytes as they travelled."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from trimtab_agent.contract.chunks import verify_chunk
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.durable import storage_errors, write_file
from trimtab_agent.errors import IntegrityError


class ChunkCache:
    """A directory of chunks: `<two digits>/<sha256>`.

    Chunks are not synced to the disk one by one, which would take longer than fetching them on
    an SD card. A power cut may tear some; reading checks the hash, and a torn one is fetched
    again.

    Args:
        directory: Where the chunks are.
        staging: A directory on the same file system for unfinished files.
    """

    def __init__(self, directory: Path, staging: Path) -> None:
        self._directory = directory
        self._staging = staging

    def _path(self, sha256: str) -> Path:
        return self._directory / sha256[:2] / sha256

    def has(self, chunk: Chunk) -> bool:
        """Says whether the chunk is here and whole; a damaged one is removed.

        Raises:
            StorageError: The disk refuses.
        """
        try:
            self.read(chunk)
        except FileNotFoundError:
            return False
        except IntegrityError:
            with storage_errors(f"removing the damaged chunk {chunk.sha256[:12]}"):
                self._path(chunk.sha256).unlink()
            return False
        return True

    def read(self, chunk: Chunk) -> bytes:
        """Returns the chunk's bytes as they travelled.

        Raises:
            FileNotFoundError: It is not here.
            IntegrityError: It was damaged on the disk.
            StorageError: The disk refuses.
        """
        path = self._path(chunk.sha256)
        if not path.exists():
            raise FileNotFoundError(path)
        with storage_errors(f"reading chunk {chunk.sha256[:12]}"):
            wire = path.read_bytes()
        verify_chunk(chunk, wire)
        return wire

    def put(self, chunk: Chunk, wire: bytes) -> None:
        """Keeps a chunk whose hash has been checked.

        Raises:
            StorageError: The disk is full or refuses; nothing is left behind.
        """
        path = self._path(chunk.sha256)
        with storage_errors(f"writing chunk {chunk.sha256[:12]}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, wire, staging=self._staging)

    def keep_only(self, wanted: Collection[str]) -> int:
        """Removes every chunk whose hash is not in `wanted`, and returns how many that were.

        Raises:
            StorageError: The disk refuses.
        """
        removed = 0
        with storage_errors(f"clearing {self._directory}"):
            for path in self._directory.glob("*/*"):
                if path.name not in wanted:
                    path.unlink()
                    removed += 1
            for shelf in self._directory.iterdir():
                if not any(shelf.iterdir()):
                    shelf.rmdir()
        return removed
