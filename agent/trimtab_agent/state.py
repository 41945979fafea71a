"""What the agent must remember through a power cut: one SQLite database.

Write-ahead log with `synchronous=FULL`: a transaction that was committed is on the disk
(https://www.sqlite.org/pragma.html#pragma_synchronous). Whatever belongs together is written in
one transaction: the counter with the assignment it came with, the end of an update with its report.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from trimtab_agent.contract import codec
from trimtab_agent.contract.measurement import Measurement
from trimtab_agent.contract.messages import Assignment, GoldenCheck, Report, State, Transfer
from trimtab_agent.errors import StorageError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS assignment (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    counter INTEGER NOT NULL,           -- of the last assignment that was accepted
    message_sha256 TEXT NOT NULL,       -- of the signed message it came in
    assignment BLOB NOT NULL,           -- JSON
    started TEXT NOT NULL,              -- RFC 3339
    step TEXT NOT NULL,                 -- the state that was reached
    findings BLOB NOT NULL,             -- JSON: what came out of the steps before
    attempts INTEGER NOT NULL,          -- how often the work of this step was begun
    settled INTEGER NOT NULL            -- 1 once there is a report
);
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    report BLOB NOT NULL                -- JSON
);
"""


class Findings(msgspec.Struct, kw_only=True, frozen=True):
    """What an update has brought so far. None is what it has not come to.

    Attributes:
        manifest: The verified bytes of the package's manifest.
        transfer: What was fetched.
        golden: How the golden samples came out.
        measurement: What was measured.
    """

    manifest: bytes | None = None
    transfer: Transfer | None = None
    golden: GoldenCheck | None = None
    measurement: Measurement | None = None


@dataclass(frozen=True)
class Pending:
    """An update that is under way.

    Attributes:
        assignment: What was asked for.
        step: The state it has reached; what comes next follows from it.
        findings: What came out of the steps before.
        started: When the assignment was accepted; UTC, RFC 3339.
    """

    assignment: Assignment
    step: State
    findings: Findings
    started: str


class Memory:
    """The database. Use it from one thread, as a context manager.

    Args:
        path: The database file; made if it is not there.

    Raises:
        StorageError: It cannot be opened or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    @property
    def counter(self) -> int | None:
        """Counter of the last assignment that was accepted, or None before the first."""
        row = self._one("SELECT counter FROM assignment")
        return row[0] if row else None

    @property
    def message_sha256(self) -> str | None:
        """SHA-256 of the signed message that it came in."""
        row = self._one("SELECT message_sha256 FROM assignment")
        return row[0] if row else None

    @property
    def pending(self) -> Pending | None:
        """The update that is under way, or None."""
        row = self._one(
            "SELECT assignment, step, findings, started FROM assignment WHERE settled = 0"
        )
        if row is None:
            return None
        assignment = codec.decode(row[0], Assignment, what=f"the assignment in {self._path}")
        findings = codec.decode(row[2], Findings, what=f"the findings in {self._path}")
        return Pending(assignment=assignment, step=row[1], findings=findings, started=row[3])

    def accept(self, assignment: Assignment, *, message_sha256: str, started: str) -> None:
        """Remembers a new assignment, in place of the one before."""
        with self._transaction() as database:
            database.execute(
                "REPLACE INTO assignment VALUES (1, ?, ?, ?, ?, 'assigned', ?, 0, 0)",
                (
                    assignment.counter,
                    message_sha256,
                    codec.encode(assignment),
                    started,
                    codec.encode(Findings()),
                ),
            )

    def reach(self, step: State, findings: Findings) -> None:
        """Remembers that the update got to `step`, and what came out of the steps before it."""
        with self._transaction() as database:
            database.execute(
                "UPDATE assignment SET step = ?, findings = ?, attempts = 0",
                (step, codec.encode(findings)),
            )

    def begin(self) -> int:
        """Counts one attempt at the present step, before it is made; returns how many with it."""
        with self._transaction() as database:
            database.execute("UPDATE assignment SET attempts = attempts + 1")
            return int(database.execute("SELECT attempts FROM assignment").fetchone()[0])

    def settle(self, report: Report) -> None:
        """Ends the update and puts its report into the outbox, both or neither."""
        with self._transaction() as database:
            database.execute("UPDATE assignment SET settled = 1")
            database.execute(
                "INSERT INTO outbox (id, report) VALUES (?, ?)", (report.id, codec.encode(report))
            )

    @property
    def outbox(self) -> list[tuple[str, bytes]]:
        """Reports that the host has not acknowledged, oldest first: id and JSON."""
        with self._errors():
            return list(self._database.execute("SELECT id, report FROM outbox ORDER BY number"))

    def acknowledge(self, ids: Iterable[str]) -> None:
        """Drops the reports that the host has stored; ids that are not here are ignored."""
        with self._transaction() as database:
            database.executemany("DELETE FROM outbox WHERE id = ?", [(id_,) for id_ in ids])

    def _one(self, query: str) -> tuple[Any, ...] | None:
        with self._errors():
            row: tuple[Any, ...] | None = self._database.execute(query).fetchone()
            return row

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits at the end of the block, or undoes all of it."""
        with self._errors(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"the database {self._path} refuses: {error}") from error
