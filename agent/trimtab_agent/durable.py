"""Writing so that a power cut leaves the old or the new, and errors that say what was full.

A rename within one file system is atomic, but neither the content of a file nor the name of a
renamed one is on the disk before it was synced (rename(2), fsync(2)): first the file, then the
directory that holds its name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trimtab_agent.errors import CallerError, StorageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turns every `OSError` in the block into a `StorageError`.

    Args:
        action: What was being done, such as `"writing chunk 12ab"`; the message starts with it.

    Raises:
        StorageError: An `OSError` was raised; a full disk or quota is named as such.
    """
    try:
        yield
    except OSError as error:
        hint = "; free some room on this device" if error.errno in _NO_ROOM else ""
        raise StorageError(f"{action} failed: {error.strerror or error}{hint}") from error


def sync_directory(path: Path) -> None:
    """Puts the names in the directory `path` on the disk.

    Raises:
        OSError: The directory cannot be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(*paths: Path) -> None:
    """Makes directories, with those above them, and puts their names on the disk.

    Raises:
        OSError: One cannot be made.
    """
    for path in paths:
        if not path.is_dir():
            make_directories(path.parent)
            path.mkdir(exist_ok=True)
            sync_directory(path.parent)


def write_file(path: Path, data: bytes, *, staging: Path) -> None:
    """Writes a file whole or not at all, without waiting for the disk.

    After a power cut the file may be empty or torn under its final name: this is for files
    whose content is checked against a hash each time they are read.

    Args:
        path: Where it goes; its directory exists.
        data: The content.
        staging: A directory on the same file system for the unfinished file.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
    """
    descriptor, name = tempfile.mkstemp(dir=staging)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def point(link: Path, target: Path, *, staging: Path) -> None:
    """Makes the symlink `link` point to `target`, atomically and on the disk.

    Args:
        link: The symlink; it may exist already.
        target: What it shall point to; stored relative to the directory of `link`, so that the
            whole tree can be moved.
        staging: A directory on the same file system for the unfinished symlink.

    Raises:
        OSError: The symlink cannot be made; the old one is still there.
    """
    # A symlink cannot be replaced in place: a new one is made beside it and renamed over it.
    holder = Path(tempfile.mkdtemp(dir=staging))
    try:
        unfinished = holder / link.name
        unfinished.symlink_to(os.path.relpath(target, link.parent))
        unfinished.replace(link)
        sync_directory(link.parent)
    finally:
        (holder / link.name).unlink(missing_ok=True)
        holder.rmdir()


@contextlib.contextmanager
def sole_user(directory: Path, *, user: str = "trimtab-agent") -> Iterator[None]:
    """Holds `directory` for this process; the kernel lets go when the process ends, however.

    Args:
        directory: Made if it is missing.
        user: What the programs are called that may hold it, one at a time.

    Raises:
        CallerError: Another process holds it.
        StorageError: The lock file cannot be made.
    """
    with storage_errors(f"making {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CallerError(
                f"{directory} is in use by another {user}: stop that one, or give this one a "
                f"directory of its own"
            ) from error
        yield


@contextlib.contextmanager
def held(directory: Path) -> Iterator[int]:
    """Holds `directory`, beside others who do; `wait_until_let_go` waits for all of them.

    Yields:
        The descriptor that holds it. A child process that inherits it holds it as well, until
        that ends too, however its parent ended (flock(2)).

    Raises:
        StorageError: The directory cannot be opened.
    """
    with storage_errors(f"holding {directory}"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def wait_until_let_go(directory: Path) -> None:
    """Waits until no process holds `directory` any more.

    Raises:
        OSError: The directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)
