"""Several files of one directory that change together, or not at all.

A rename replaces one file atomically, not several. So the new files are written to a directory of
their own first; renaming that directory is the moment from which the change counts, and moving
its files into place can be repeated after a crash (a redo log).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from trimtab.package.files import write_atomically
from trimtab_agent.durable import storage_errors, sync_directory

_UNFINISHED = ".unfinished"
_REDO = "redo"


def is_interrupted(directory: Path) -> bool:
    """Says whether a change counts already and is not in place yet."""
    return (directory / _REDO).is_dir()


def replace_together(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes files whole or not at all. One process at a time may do so.

    Args:
        directory: Where the files belong; nothing may be interrupted there.
        files: Contents by name, in the order in which they shall appear.

    Raises:
        StorageError: The disk has no room or refuses a write; nothing has changed.
    """
    unfinished = directory / _UNFINISHED
    with storage_errors(f"writing to {directory}"):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for number, (name, data) in enumerate(files.items()):
            write_atomically(unfinished / f"{number}.{name}", data)
        unfinished.rename(directory / _REDO)
        sync_directory(directory)
    finish(directory)


def finish(directory: Path) -> None:
    """Moves the files of an interrupted change into place, and removes what never counted.

    Raises:
        StorageError: The disk refuses; the next call goes on from there.
    """
    redo = directory / _REDO
    with storage_errors(f"moving files within {directory}"):
        shutil.rmtree(directory / _UNFINISHED, ignore_errors=True)
        if not redo.is_dir():
            return
        for path in sorted(redo.glob("[0-9]*"), key=_number):
            path.replace(directory / path.name.partition(".")[2])
        sync_directory(directory)
        redo.rmdir()
        sync_directory(directory)


def _number(path: Path) -> int:
    return int(path.name.partition(".")[0])
