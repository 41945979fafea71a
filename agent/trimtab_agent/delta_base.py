"""A file that is on the disk already, as what a delta starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import FormatError

_READ_BYTES = 1 << 20


class FileBase:
    """A file to be read anywhere (`trimtab_agent.coding.methods.Base`).

    Args:
        file: Open for reading.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, offset: int, count: int) -> bytes:
        """Returns `count` bytes from `offset` on.

        Raises:
            FormatError: The file is shorter.
            StorageError: The disk refuses.
        """
        with storage_errors("reading the file that a delta starts from"):
            self._file.seek(offset)
            data = self._file.read(count)
        if len(data) != count:
            raise FormatError(f"a delta refers to {count} bytes at {offset}, past its file's end")
        return data


def find_whole(candidates: Iterable[Path], sha256: str) -> Path | None:
    """Returns the first file that has this content, every byte of it, or None.

    Args:
        candidates: Files that should have it.
        sha256: Of the content.

    Raises:
        StorageError: The disk refuses.
    """
    for path in candidates:
        digest = hashlib.sha256()
        with storage_errors(f"reading {path}"), path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
        if digest.hexdigest() == sha256:
            return path
    return None
