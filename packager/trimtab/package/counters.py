"""The counter of each device's assignments: it rises, whatever crashes in between."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from trimtab.errors import RepositoryError

_TABLE = "CREATE TABLE IF NOT EXISTS counters (device TEXT PRIMARY KEY, counter INTEGER NOT NULL)"
_FLOOR = "*"
"""Stands for all devices, known or not: no device id is like this."""
_NEXT = """
    INSERT INTO counters
        SELECT ?1, 1 + COALESCE(MAX(counter), 0) FROM counters WHERE device IN (?1, ?2)
    ON CONFLICT (device) DO UPDATE SET counter = excluded.counter
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
        (counter,) = self._run(_NEXT, device, _FLOOR)
        return int(counter)

    def highest(self) -> int:
        """Returns the highest number given out or skipped; 0 for none; raises as `next`."""
        if not self._path.exists():
            return 0
        (highest,) = self._run("SELECT COALESCE(MAX(counter), 0) FROM counters")
        return int(highest)

    def skip(self, by: int) -> int:
        """Makes every next number higher than `by` above the highest; raises as `next`.

        Returns:
            The number that all will be above, also those of devices not seen yet.
        """
        (floor,) = self._run(
            "INSERT INTO counters SELECT ?1, ?2 + COALESCE(MAX(counter), 0) FROM counters WHERE 1 "
            "ON CONFLICT (device) DO UPDATE SET counter = excluded.counter RETURNING counter",
            _FLOOR,
            by,
        )
        return int(floor)

    def _run(self, statement: str, *values: str | int) -> tuple[int]:
        """Runs a statement in a transaction of its own and returns its only row."""
        try:
            with closing(sqlite3.connect(self._path)) as database, database:
                database.execute(_TABLE)
                (row,) = database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise RepositoryError(f"{self._path} cannot keep counters: {error}") from error
        return (int(row[0]),)
