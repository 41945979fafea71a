"""The database beside the keys: SQLite on one machine, PostgreSQL or another by its URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from trimtab_agent.errors import CallerError, StorageError


class Database:
    """Tables in one database. Safe to use from several threads.

    Args:
        url: SQLAlchemy's form, such as `sqlite:///fleet.sqlite`.
        tables: Made where they are missing.

    Raises:
        CallerError: The URL cannot be used.
        StorageError: The database cannot be opened.
    """

    def __init__(self, url: str, tables: sa.MetaData) -> None:
        try:
            self._engine = sa.create_engine(url)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise CallerError(f"database {url!r} cannot be used: {error}") from error
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
        with self._errors():
            tables.create_all(self._engine)

    def close(self) -> None:
        """Closes the connections to the database."""
        self._engine.dispose()

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Yields a connection for one transaction, which is on the disk when the block ends.

        Raises:
            StorageError: The database refuses; nothing was changed.
        """
        with self._errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            url = self._engine.url.render_as_string(hide_password=True)
            cause = getattr(error, "orig", None) or error
            raise StorageError(f"the report database {url} fails: {cause}") from error


def _set_up_sqlite(connection: Any, _record: object) -> None:
    """Lets readers read while a row is written, and keeps what was committed."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # In WAL mode NORMAL may lose the last commits in a power cut; an acknowledged report is gone
    # from the device by then (sqlite.org/pragma.html#pragma_synchronous).
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
