"""Reports in a database, each once."""

from __future__ import annotations

from datetime import datetime, timezone

import sqlalchemy as sa

from trimtab.fleet.database import Database
from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import Report

_metadata = sa.MetaData()
_reports = sa.Table(
    "reports",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),  # the order of arrival
    sa.Column("id", sa.String(128), nullable=False, unique=True),
    sa.Column("device", sa.String(64), nullable=False),
    sa.Column("counter", sa.Integer, nullable=False),
    sa.Column("target", sa.String(200), nullable=False),
    sa.Column("trial", sa.String(200)),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("received", sa.String(40), nullable=False),
    # The whole report as it came: columns beside it are for finding it, not instead of it.
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("reports_of_assignment", "device", "counter"),
)


class ReportStore:
    """Every report that was received, each once. Safe to use from several threads.

    Args:
        url: SQLAlchemy's form, such as `sqlite:///fleet.sqlite`.

    Raises:
        CallerError: The URL cannot be used.
        StorageError: The database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, _metadata)

    def close(self) -> None:
        """Closes the connections to the database."""
        self._database.close()

    def add(self, report: Report) -> bool:
        """Stores a report; it is on the disk when this returns.

        Returns:
            False if a report with this id was there already.

        Raises:
            StorageError: It could not be stored.
        """
        row = {
            "id": report.id,
            "device": report.device,
            "counter": report.counter,
            "target": report.target,
            "trial": report.trial,
            "outcome": report.outcome,
            "received": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "body": codec.encode(report),
        }
        with self._database.begin() as connection:
            try:
                connection.execute(_reports.insert().values(row))
            except sa.exc.IntegrityError:
                return False
        return True

    def find(self, device: str, counter: int) -> Report | None:
        """Returns the report on one assignment, or None while there is none.

        Raises:
            StorageError: The database cannot be read.
            FormatError: What is stored is no report.
        """
        query = _reports.c.device == device, _reports.c.counter == counter
        found = self._select(*query)
        return found[-1] if found else None

    def all(self, device: str | None = None) -> list[Report]:
        """Returns every report, or every one of a device, in the order of their arrival.

        Raises:
            StorageError: The database cannot be read.
            FormatError: What is stored is no report.
        """
        return self._select(*([_reports.c.device == device] if device else []))

    def active(self) -> dict[str, str]:
        """Returns what each device ran when it reported last, by device; not those with nothing.

        Raises:
            StorageError: The database cannot be read.
            FormatError: What is stored is no report.
        """
        newest = sa.select(sa.func.max(_reports.c.sequence)).group_by(_reports.c.device)
        found = self._select(_reports.c.sequence.in_(newest))
        return {report.device: report.active for report in found if report.active is not None}

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[Report]:
        query = sa.select(_reports.c.body).where(*conditions)
        with self._database.begin() as connection:
            bodies = connection.execute(query.order_by(_reports.c.sequence)).scalars().all()
        return [codec.decode(body, Report, what="a stored report") for body in bodies]
