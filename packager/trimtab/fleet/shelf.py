"""What the host has put on the broker: packages, retained topics and assignments.

A broker cannot be asked which topics it retains without being sent all of them. So the host
writes down what it publishes, before it does: what is on the list and no longer wanted is cleared,
and what is wanted and gone is published again. Signed assignments are kept as they were sent: a
second signature would need a new counter, and so start an update anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import NamedTuple

import sqlalchemy as sa

from trimtab.fleet.database import Database
from trimtab_agent.contract.messages import Assignment

_metadata = sa.MetaData()
_packages = sa.Table(
    "published_packages",
    _metadata,
    sa.Column("target", sa.String(200), primary_key=True),
    sa.Column("published", sa.String(40), nullable=False),
)
_topics = sa.Table(
    "retained_topics",
    _metadata,
    sa.Column("topic", sa.String(256), primary_key=True),
)
_assignments = sa.Table(
    "assignments",
    _metadata,
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("counter", sa.Integer, nullable=False),
    sa.Column("target", sa.String(200), nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),
)
_names = sa.Table(
    "names",
    _metadata,
    sa.Column("what", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
)
_SLICE = 500
"""Values in one statement: SQLite took at most 999 before version 3.32."""


class Assigned(NamedTuple):
    """The last assignment of a device.

    Attributes:
        device: The device.
        counter: The assignment's counter.
        target: The package.
        message: As it was signed and sent.
    """

    device: str
    counter: int
    target: str
    message: bytes


class Shelf:
    """What should be on the broker, and what was put there. Safe to use from several threads.

    Args:
        url: The database, as in `reports.ReportStore`.

    Attributes:
        sent: Chunk hashes and document names that were published through this object; they are
            not sent again by it.

    Raises:
        CallerError: The URL cannot be used.
        StorageError: The database cannot be opened. Every method raises it where the database
            refuses.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, _metadata)
        self.sent: set[str] = set()

    def close(self) -> None:
        """Closes the connections to the database."""
        self._database.close()

    @property
    def share(self) -> str:
        """The name under which hosts divide want-lists among themselves, drawn at random once.

        A secret: a broker lets any client join a share whose name it knows, and what is then dealt
        to that client is lost (measured on Mosquitto 2.0.11, whatever its access rules).
        """
        with self._database.begin() as connection:
            query = sa.select(_names.c.name).where(_names.c.what == "share")
            name = connection.execute(query).scalar()
            if name is None:
                name = secrets.token_hex(16)
                connection.execute(_names.insert().values(what="share", name=name))
            return str(name)

    def add_package(self, target: str) -> None:
        """Writes down that a package is published now."""
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        with self._database.begin() as connection:
            connection.execute(_packages.delete().where(_packages.c.target == target))
            connection.execute(_packages.insert().values(target=target, published=now))

    def packages(self) -> list[str]:
        """Returns the packages that were ever published, the last first."""
        query = sa.select(_packages.c.target).order_by(_packages.c.published.desc())
        with self._database.begin() as connection:
            return list(connection.execute(query).scalars())

    def put(self, topics: Iterable[str]) -> None:
        """Writes down topics that are about to be published, retained."""
        new = sorted(set(topics))
        with self._database.begin() as connection:
            for at in range(0, len(new), _SLICE):
                some = new[at : at + _SLICE]
                query = sa.select(_topics.c.topic).where(_topics.c.topic.in_(some))
                known = set(connection.execute(query).scalars())
                rows = [{"topic": topic} for topic in some if topic not in known]
                if rows:
                    connection.execute(_topics.insert(), rows)

    def drop(self, topics: Iterable[str]) -> None:
        """Forgets topics that were cleared."""
        gone = list(topics)
        with self._database.begin() as connection:
            for at in range(0, len(gone), _SLICE):
                some = gone[at : at + _SLICE]
                connection.execute(_topics.delete().where(_topics.c.topic.in_(some)))

    def topics(self) -> set[str]:
        """Returns every retained topic that was put on the broker and not cleared since."""
        with self._database.begin() as connection:
            return set(connection.execute(sa.select(_topics.c.topic)).scalars())

    def assign(self, assignment: Assignment, message: bytes) -> None:
        """Keeps a signed assignment in place of an older one of the same device."""
        same = _assignments.c.device == assignment.device
        row = Assigned(assignment.device, assignment.counter, assignment.target, message)
        with self._database.begin() as connection:
            last = connection.execute(sa.select(_assignments.c.counter).where(same)).scalar()
            if last is None or last < assignment.counter:
                connection.execute(_assignments.delete().where(same))
                connection.execute(_assignments.insert().values(row._asdict()))

    def assignments(self) -> list[Assigned]:
        """Returns the last assignment of every device."""
        query = sa.select(_assignments).order_by(_assignments.c.device)
        with self._database.begin() as connection:
            return [Assigned(*row) for row in connection.execute(query)]
