"""The counter of each device's assignments: it rises, whatever crashes in between."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from trimtab.errors import RepositoryError

_TABLE = "CREATE TABLE IF NOT EXISTS counters (device TEXT PRIMARY KEY, counter INTEGER NOT NULL)"
_NEXT = """
    INSERT INTO counters VALUES (?, 1)
    ON CONFLICT (device) DO UPDATE SET counter = counter + 1
    RETURNING counter
"""


class Counters:
    """Counters by device, in one SQLite file.

    A device refuses an assignment whose counter is lower than one it has seen, so a number is
    never given out twice: it is on the disk before it is used, and lost if it is not used.

    Args:
        path: The file; it is made when the first counter is asked for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def next(self, device: str) -> int:
        """Returns a number higher than all before it for `device`; the first is 1.

        Raises:
            RepositoryError: The file cannot be written or is no database.
        """
        try:
            with closing(sqlite3.connect(self._path)) as database, database:
                database.execute(_TABLE)
                ((counter,),) = database.execute(_NEXT, (device,)).fetchall()
        except sqlite3.Error as error:
            raise RepositoryError(f"{self._path} cannot keep counters: {error}") from error
        return int(counter)
