"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trimtab_agent.errors import StorageError


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Opens a file that takes the place of `path` when the block ends without an error.

    The bytes are written beside `path`, forced to the disk and renamed. Readers see the old file
    or the new one, whole. After an error the old file is untouched and nothing is left over.

    Args:
        path: The file to write; its directory must exist.
        mode: Permission bits of the new file.

    Yields:
        The stream to write to.

    Raises:
        StorageError: The disk has no room or refuses the write.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as stream:
            temporary = Path(stream.name)
            temporary.chmod(mode)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        temporary = None
        _sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Makes `data` the content of `path`, whole or not at all.

    Raises:
        StorageError: The disk has no room or refuses the write.
    """
    with replacing(path, mode=mode) as stream:
        stream.write(data)


def _sync_directory(directory: Path) -> None:
    """Forces a rename to the disk: until then a power cut may undo it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
