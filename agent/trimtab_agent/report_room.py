"""How much room the reports that wait may take: a host that is away for years fills no disk.

When there are too many bytes, the oldest reports lose their raw latencies, which are nearly all of
a report. When that is not enough, or there are too many reports, the oldest go. The next report
tells how many went, and takes over what those had to tell of others. So no loss goes unsaid.
"""

from __future__ import annotations

import logging
import sqlite3

import msgspec

from trimtab_agent.contract import codec
from trimtab_agent.contract.measurement import Measurement
from trimtab_agent.contract.messages import Report
from trimtab_agent.errors import FormatError

_log = logging.getLogger(__name__)

MAX_REPORTS = 1000
MAX_BYTES = 64 * 1024 * 1024


def put_report(database: sqlite3.Connection, report: Report) -> None:
    """Puts a report into the table `outbox`, and makes room for it; part of a transaction.

    Args:
        database: The table has the columns `number`, `id` and `report`.
        report: The new report; it is never the one that goes.
    """
    lacking = _thin_out(database, report)
    lost = _drop(database, lacking)
    if lost:
        _log.warning("%d reports were lost: the outbox was full", lost)
    report = msgspec.structs.replace(report, reports_lost=lost)
    database.execute(
        "INSERT INTO outbox (id, report) VALUES (?, ?)", (report.id, codec.encode(report))
    )


def _thin_out(database: sqlite3.Connection, report: Report) -> int:
    """Takes raw latencies away, oldest first; returns the bytes that are too many still."""
    (size_bytes,) = database.execute("SELECT SUM(LENGTH(report)) FROM outbox").fetchone()
    too_many = (size_bytes or 0) + len(codec.encode(report)) - MAX_BYTES
    if too_many <= 0:
        return 0
    for number in _numbers(database):
        old = _body(database, number)
        waiting = _decode(old)
        new = codec.encode(without_raw(waiting)) if waiting else old
        database.execute("UPDATE outbox SET report = ? WHERE number = ?", (new, number))
        too_many -= len(old) - len(new)
        if too_many <= 0:
            break
    return too_many


def _drop(database: sqlite3.Connection, too_many_bytes: int) -> int:
    """Deletes the oldest reports; returns how many are lost, those lost before them included."""
    numbers, lost = _numbers(database), 0
    for index, number in enumerate(numbers):
        if too_many_bytes <= 0 and len(numbers) - index < MAX_REPORTS:
            break
        body = _body(database, number)
        waiting = _decode(body)
        lost += 1 + (waiting.reports_lost if waiting else 0)
        database.execute("DELETE FROM outbox WHERE number = ?", (number,))
        too_many_bytes -= len(body)
    return lost


def _numbers(database: sqlite3.Connection) -> list[int]:
    rows = database.execute("SELECT number FROM outbox ORDER BY number")
    return [number for (number,) in rows]


def _body(database: sqlite3.Connection, number: int) -> bytes:
    body: bytes
    # The cast holds also where the disk has made a text of it.
    query = "SELECT CAST(report AS BLOB) FROM outbox WHERE number = ?"
    (body,) = database.execute(query, (number,)).fetchone()
    return body


def _decode(body: bytes) -> Report | None:
    """Returns a report, or None for one that the disk has damaged."""
    try:
        return codec.decode(body, Report, what="a report in the outbox")
    except FormatError:
        return None


def without_raw(report: Report) -> Report:
    """Returns a report without the raw latencies of what it measured."""
    if report.measurement is None:
        return report
    comparison = report.comparison
    if comparison is not None:
        running = _thin(comparison.running)
        comparison = msgspec.structs.replace(comparison, running=running)
    return msgspec.structs.replace(
        report, measurement=_thin(report.measurement), comparison=comparison
    )


def _thin(measurement: Measurement) -> Measurement:
    latency = msgspec.structs.replace(measurement.latency, raw_us=b"")
    return msgspec.structs.replace(measurement, latency=latency)
