"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trimtab_agent.durable import storage_errors, sync_directory

_UNFINISHED = ".new-"


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
        with (
            storage_errors(f"writing {path}"),
            # mkstemp's own mode is 0600, so a private key is never readable by others meanwhile
            tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=_UNFINISHED, delete=False
            ) as stream,
        ):
            temporary = Path(stream.name)
            yield stream
            stream.flush()
            temporary.chmod(mode)
            os.fsync(stream.fileno())
            temporary.replace(path)
            temporary = None
            sync_directory(path.parent)
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


def remove_unfinished(directory: Path) -> None:
    """Removes what a process that was killed was writing. Nobody may be writing there now.

    Raises:
        StorageError: The disk refuses.
    """
    with storage_errors(f"removing unfinished files of {directory}"):
        for path in directory.glob(f"{_UNFINISHED}*"):
            path.unlink(missing_ok=True)
