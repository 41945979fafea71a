"""A disk that refuses, and a machine that goes down, before any operation on a directory.

Python tells its audit hooks of every file that is opened, made, renamed or removed before it does
so (https://docs.python.org/3/library/audit_events.html), so nothing of the agent is replaced. What
SQLite writes shows nowhere: `watch` puts its transactions under the same rule.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import sys
from pathlib import Path
from typing import Literal

from support.updates import PowerCut
from trimtab_agent.state import Memory

Mode = Literal["full", "read-only", "broken", "cut"]
"""`full` refuses what needs room, `read-only` every change, `broken` reading too."""

_ROOM = {"os.mkdir", "os.symlink"}
_CHANGES = _ROOM | {"os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}
_READS = {"os.listdir", "os.scandir"}
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_watched: list[FaultyDisk] = []


class FaultyDisk:
    """What lies below one directory. Use `close` at the end.

    Args:
        root: The directory.

    Attributes:
        refused: How many operations were refused since `heal`.
        dead: Whether the machine has gone down: nothing reaches the disk any more.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._in_use = False
        self.heal()
        _watched.append(self)

    def close(self) -> None:
        _watched.remove(self)

    def heal(self) -> None:
        """Lets everything through."""
        self.refused = 0
        self.dead = False
        self._mode: Mode | None = None
        self._let_through = 0
        self._left = 0

    @property
    def fails(self) -> bool:
        """Whether something is still to fail."""
        return self._mode is not None

    def fail(self, mode: Mode, *, after: int, operations: int = 10**9) -> None:
        """Fails from the next operation but `after`, for so many operations; `cut` for ever."""
        self._mode, self._let_through, self._left = mode, after, operations

    @contextlib.contextmanager
    def in_use(self):
        """Only what is done in the block meets faults: what a test looks at does not."""
        self._in_use = True
        try:
            yield
        finally:
            self._in_use = False

    def watch(self, memory: Memory) -> None:
        """Puts a database's transactions under this disk's rule."""
        transaction, read = memory._transaction, memory._one

        @contextlib.contextmanager
        def watched():
            with memory._errors():
                self._sqlite("change")
            with transaction() as database:
                yield database
            if self._mode == "cut":  # the machine goes down right after the commit
                self.operation("change")

        def watched_read(*query):
            with memory._errors():
                self._sqlite("read")
            return read(*query)

        memory._transaction, memory._one = watched, watched_read

    def _sqlite(self, kind: str) -> None:
        try:
            self.operation(kind)
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from error

    def operation(self, kind: str) -> None:
        """Called before everything that is done: `room`, `change` or `read`."""
        if not self._in_use:
            return
        if self.dead:
            raise PowerCut
        if self._mode is None or not self._left or (kind == "read" and self._mode != "broken"):
            return
        if self._let_through:
            self._let_through -= 1
            return
        if self._mode == "cut":
            self.dead = True
            raise PowerCut
        if self._mode == "full" and kind == "change":
            return
        self._left -= 1
        self.refused += 1
        number = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO}[self._mode]
        raise OSError(number, os.strerror(number))

    def holds(self, path: object) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self._root)


def _kind(event: str, args: tuple) -> str | None:
    if event == "open":
        _, mode, flags = args
        writes = any(letter in mode for letter in "wxa+") if mode else flags & _WRITE_FLAGS
        return "room" if writes else "read"
    if event in _ROOM:
        return "room"
    if event in _CHANGES:
        return "change"
    return "read" if event in _READS else None


def _hook(event: str, args: tuple) -> None:
    if not _watched or not args:
        return
    kind = _kind(event, args)
    if kind is None:
        return
    for disk in _watched:
        # A symlink's first argument is what it points to.
        if disk.holds(args[1] if event == "os.symlink" else args[0]):
            disk.operation(kind)


sys.addaudithook(_hook)
