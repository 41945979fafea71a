"""What the agent must remember through a power cut: one SQLite database.

Write-ahead log with `synchronous=FULL`: a transaction that was committed is on the disk
(https://www.sqlite.org/pragma.html#pragma_synchronous). Whatever belongs together is written in
one transaction: the counter with the assignment it came with, the end of an update with its report.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from trimtab_agent.contract import codec
from trimtab_agent.contract.measurement import Comparison, GateResult, Measurement
from trimtab_agent.contract.messages import (
    Assignment,
    Failure,
    GoldenCheck,
    Report,
    State,
    Transfer,
)
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import CallerError, DamagedError, FormatError, StorageError
from trimtab_agent.report_room import put_report

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
"""The `user_version` of the tables below; raised when an older agent could not use them."""

# `trimtab-agent status` may open a new database at the same moment as the agent: whoever comes
# second finds everything there.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS assignment (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    counter INTEGER NOT NULL,           -- of the last assignment that was accepted
    message_sha256 TEXT NOT NULL,       -- of the signed message it came in
    assignment BLOB NOT NULL,           -- JSON
    started TEXT NOT NULL,              -- RFC 3339
    step TEXT NOT NULL,                 -- the state that was reached
    findings BLOB NOT NULL,             -- JSON: what came out of the steps before
    attempts INTEGER NOT NULL,          -- how often the work of this step was begun
    retries INTEGER NOT NULL,           -- how often the network was in the way of this step
    settled INTEGER NOT NULL            -- 1 once there is a report
);
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    report BLOB NOT NULL                -- JSON
);
CREATE TABLE IF NOT EXISTS orders (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    paused INTEGER NOT NULL,            -- 1 while nothing new may begin
    command INTEGER,                    -- counter of the last command that was done
    reply BLOB                          -- what was answered to it
);
INSERT OR IGNORE INTO orders VALUES (1, 0, NULL, NULL);
PRAGMA user_version = 1;
COMMIT;
"""


class TrialRecord(msgspec.Struct, kw_only=True, frozen=True):
    """How the trial of a version has gone so far.

    Attributes:
        hooked: Whether the hook `after_switch` was run.
        elapsed_s: Time on trial while this agent ran, added up over restarts.
        runs: How often the health command was run.
        failures: How often it failed.
        failing: How often it failed since it last succeeded.
    """

    hooked: bool = False
    elapsed_s: float = 0.0
    runs: int = 0
    failures: int = 0
    failing: int = 0


class Findings(msgspec.Struct, kw_only=True, frozen=True):
    """What an update has brought so far. None is what it has not come to.

    Attributes:
        manifest: The verified bytes of the package's manifest.
        transfer: What was fetched.
        golden: How the golden samples came out.
        measurement: What was measured.
        comparison: The running version beside it.
        gates: The limits it was held against.
        switching: Whether `current` was, or may have been, pointed at it by this update.
        trial: How its trial goes.
        failure: Why it ends. What is left to do then is to go back, and to report.
    """

    manifest: bytes | None = None
    transfer: Transfer | None = None
    golden: GoldenCheck | None = None
    measurement: Measurement | None = None
    comparison: Comparison | None = None
    gates: tuple[GateResult, ...] = ()
    switching: bool = False
    trial: TrialRecord | None = None
    failure: Failure | None = None


class Pending(msgspec.Struct, frozen=True):
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
        DamagedError: It is no database, or not whole.
        StorageError: It cannot be opened, or was made by a newer agent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _alone_in(path.parent):
            self._open()

    def _open(self) -> None:
        with self._errors():
            self._database = sqlite3.connect(self._path, isolation_level=None)
        try:
            with self._errors():
                is_new = self._check_format()  # before anything of it is changed
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=FULL")
                if is_new:
                    self._database.executescript(_SCHEMA)
        except StorageError:
            self._database.close()
            raise

    def _check_format(self) -> bool:
        """Refuses a database that this agent cannot use; returns whether there is nothing in it."""
        self._database.execute("BEGIN")  # both reads see one moment
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        has_tables = self._database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
        self._database.execute("COMMIT")
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self._path} was made by a newer agent (format {version}; this one knows "
                f"{SCHEMA_VERSION}): install that agent again, or move the state directory away"
            )
        if version == SCHEMA_VERSION:
            return False
        if has_tables:
            raise DamagedError(f"{self._path} has tables of an unknown format")
        return True

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

    def check(self) -> None:
        """Looks at every page, and reads all values but the reports that wait.

        Raises:
            DamagedError: Something is not what was written.
        """
        (found,) = self._one("PRAGMA quick_check") or ("nothing",)
        if found != "ok":
            raise DamagedError(f"the database {self._path} is damaged: {found}")
        _ = self.pending, self.manifest, self.last_command

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
        return Pending(
            assignment=self._decode(row[0], Assignment),
            step=row[1],
            findings=self._decode(row[2], Findings),
            started=row[3],
        )

    @property
    def manifest(self) -> bytes | None:
        """Manifest of the last update that came so far, over or not."""
        row = self._one("SELECT findings FROM assignment")
        return self._decode(row[0], Findings).manifest if row else None

    def accept(self, assignment: Assignment, *, message_sha256: str, started: str) -> None:
        """Remembers a new assignment, in place of the one before."""
        with self._transaction() as database:
            database.execute(
                "REPLACE INTO assignment VALUES (1, ?, ?, ?, ?, 'assigned', ?, 0, 0, 0)",
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
                "UPDATE assignment SET step = ?, findings = ?, attempts = 0, retries = 0",
                (step, codec.encode(findings)),
            )

    def keep(self, findings: Findings) -> None:
        """Remembers more of the present step."""
        with self._transaction() as database:
            database.execute("UPDATE assignment SET findings = ?", (codec.encode(findings),))

    def reopen(self, target: str, step: State, findings: Findings) -> None:
        """Makes a package that is active the subject of an update again, to be taken back.

        The counter stays: what was assigned last is not done again.

        Raises:
            CallerError: Nothing was assigned since this database was made.
        """
        with self._transaction() as database:
            row = database.execute("SELECT assignment FROM assignment").fetchone()
            if row is None:
                raise CallerError(
                    "this device's database was lost, and with it what was assigned: assign the "
                    "package that shall be active"
                )
            assignment = msgspec.structs.replace(
                self._decode(row[0], Assignment), target=target, trial=None
            )
            database.execute(
                "UPDATE assignment SET assignment = ?, step = ?, findings = ?, attempts = 0, "
                "retries = 0, settled = 0",
                (codec.encode(assignment), step, codec.encode(findings)),
            )

    def begin(self) -> int:
        """Counts one attempt at the present step, before it is made; returns how many with it."""
        return self._count("attempts", 1)

    def leave_off(self) -> None:
        """Takes an attempt back that was ended on purpose: it says nothing about the package."""
        self._count("attempts", -1)

    def retry(self) -> int:
        """Counts one try at the present step that the network was in the way of."""
        return self._count("retries", 1)

    def _count(self, column: str, more: int) -> int:
        with self._transaction() as database:
            database.execute(f"UPDATE assignment SET {column} = MAX({column} + ?, 0)", (more,))  # noqa: S608 - one of two names above
            (count,) = database.execute(f"SELECT {column} FROM assignment").fetchone()  # noqa: S608
            return int(count)

    def settle(self, report: Report) -> None:
        """Ends the update and puts its report into the outbox, both or neither."""
        with self._transaction() as database:
            database.execute("UPDATE assignment SET settled = 1")
            put_report(database, report)

    @property
    def outbox(self) -> list[str]:
        """Ids of the reports that the host has not acknowledged, oldest first."""
        with self._errors():
            rows = self._database.execute("SELECT id FROM outbox ORDER BY number")
            return [id_ for (id_,) in rows]

    def report(self, id_: str) -> bytes:
        """Returns the JSON of a report in the outbox.

        Raises:
            StorageError: It cannot be read, or is not there.
        """
        row = self._one("SELECT CAST(report AS BLOB) FROM outbox WHERE id = ?", id_)
        if row is None:
            raise StorageError(f"there is no report {id_} in {self._path}")
        body: bytes = row[0]
        return body

    def acknowledge(self, ids: Iterable[str]) -> None:
        """Drops the reports that the host has stored; ids that are not here are ignored."""
        with self._transaction() as database:
            database.executemany("DELETE FROM outbox WHERE id = ?", [(id_,) for id_ in ids])

    @property
    def paused(self) -> bool:
        """Whether nothing new may begin."""
        row = self._one("SELECT paused FROM orders")
        return bool(row and row[0])

    @paused.setter
    def paused(self, paused: bool) -> None:
        with self._transaction() as database:
            database.execute("UPDATE orders SET paused = ?", (int(paused),))

    @property
    def last_command(self) -> tuple[int, bytes] | None:
        """Counter of the last command that was done, and the reply to it; None before the first."""
        row = self._one("SELECT command, reply FROM orders WHERE command IS NOT NULL")
        return (row[0], row[1]) if row else None

    def answer(self, counter: int, reply: bytes) -> None:
        """Remembers that a command was done, and the reply to it."""
        with self._transaction() as database:
            database.execute("UPDATE orders SET command = ?, reply = ?", (counter, reply))

    def _decode(self, data: bytes, kind: type[codec.T]) -> codec.T:
        try:
            return codec.decode(data, kind, what=f"what {self._path} holds")
        except FormatError as error:
            raise DamagedError(str(error)) from error

    def _one(self, query: str, *values: str) -> tuple[Any, ...] | None:
        with self._errors():
            row: tuple[Any, ...] | None = self._database.execute(query, values).fetchone()
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
            # Errors of the file's content have no class of their own; all others have.
            damaged = type(error) is sqlite3.DatabaseError
            kind = DamagedError if damaged else StorageError
            raise kind(f"the database {self._path} refuses: {error}") from error
        except UnicodeDecodeError as error:
            # Where SQLite's message or a text quotes damaged bytes, Python cannot hand it over.
            raise DamagedError(f"the database {self._path} holds no text: {error}") from error


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keeps others who do the same in `directory` waiting, threads and processes.

    `trimtab-agent status` may come while the agent makes its database. SQLite's own waiting does
    not cover the change to a write-ahead log: it says "database is locked" at once.

    Raises:
        StorageError: The directory cannot be opened.
    """
    with storage_errors(f"opening {directory}"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def open_memory(path: Path) -> Memory:
    """Opens the database; a damaged one is put aside, and a new one begun.

    What is lost with it are reports that were not sent, the counter, and the update under way.
    A device that cannot start would be worse: nobody could ever reach it again.

    Raises:
        StorageError: It cannot be opened, or was made by a newer agent.
    """
    try:
        memory = Memory(path)
        try:
            memory.check()
        except StorageError:
            memory.close()
            raise
    except DamagedError as error:
        _log.error("%s; it is put aside as %s.damaged, and a new one begun", error, path.name)
        with storage_errors(f"putting {path} aside"):
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.replace(path.with_name(path.name + ".damaged"))
        return Memory(path)
    return memory
