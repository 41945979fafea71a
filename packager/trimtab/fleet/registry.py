"""Tokens and certificates that were given out, in one SQLite file beside the authority's key.

Every change raises a number, the revision. `trimtab serve` follows it, tells the broker, and notes
which revision the broker has been told: so another process can wait until its change is in force.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from trimtab_agent.errors import StorageError

_TABLES = """
    CREATE TABLE IF NOT EXISTS tokens (
        id TEXT PRIMARY KEY, device TEXT NOT NULL, password TEXT NOT NULL,
        created TEXT NOT NULL, expires TEXT NOT NULL, key_sha256 TEXT);
    CREATE TABLE IF NOT EXISTS certificates (
        serial TEXT PRIMARY KEY, device TEXT NOT NULL, key_sha256 TEXT NOT NULL,
        pem TEXT NOT NULL, issued TEXT NOT NULL, expires TEXT NOT NULL, revoked TEXT);
    CREATE INDEX IF NOT EXISTS certificates_of_device ON certificates (device);
    CREATE TABLE IF NOT EXISTS revisions (
        one INTEGER PRIMARY KEY CHECK (one = 1), made INTEGER NOT NULL, in_force INTEGER NOT NULL);
    INSERT OR IGNORE INTO revisions VALUES (1, 1, 0);
"""
_BUSY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class TokenRecord:
    """A token as the host knows it: never its secret, only the hash that the broker checks.

    Attributes:
        id: Its name.
        device: Whom it is for.
        password: The hash, in the form of Mosquitto's password file.
        expires: UTC.
        key_sha256: Hash of the one public key that has used it, or None.
    """

    id: str
    device: str
    password: str
    expires: datetime
    key_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class CertificateRecord:
    """A certificate that was given to a device.

    Attributes:
        serial: Its serial number.
        device: Whom it names.
        key_sha256: Hash of its public key, as SubjectPublicKeyInfo.
        pem: The certificate.
        issued: UTC.
        expires: UTC.
        revoked: When it was revoked, or None.
    """

    serial: int
    device: str
    key_sha256: str
    pem: str
    issued: datetime
    expires: datetime
    revoked: datetime | None = None


class Registry:
    """The records. Each method is one transaction, on the disk when it returns.

    Args:
        path: The file; made if it is missing.

    Raises:
        StorageError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._database() as database:
            database.executescript(_TABLES)
        path.chmod(0o600)

    def add_token(self, token: TokenRecord, now: datetime) -> int:
        """Adds a token and returns the revision.

        Raises:
            StorageError: It cannot be stored.
        """
        row = token.id, token.device, token.password, _text(now), _text(token.expires)
        with self._database() as database:
            database.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, NULL)", row)
            return _raise_revision(database)

    def token(self, token_id: str) -> TokenRecord | None:
        """Returns a token, also one that has expired, or None.

        Raises:
            StorageError: It cannot be read.
        """
        with self._database() as database:
            row = database.execute(
                "SELECT id, device, password, expires, key_sha256 FROM tokens WHERE id = ?",
                (token_id,),
            ).fetchone()
        return _token(row) if row else None

    def open_tokens(self, now: datetime) -> list[TokenRecord]:
        """Returns the tokens that have not expired, used or not.

        Raises:
            StorageError: They cannot be read.
        """
        with self._database() as database:
            rows = database.execute(
                "SELECT id, device, password, expires, key_sha256 FROM tokens"
                " WHERE expires > ? ORDER BY id",
                (_text(now),),
            ).fetchall()
        return [_token(row) for row in rows]

    def bind_token(self, token_id: str, key_sha256: str) -> bool:
        """Gives a token to the first key that uses it; False if that was another key.

        Raises:
            StorageError: It cannot be stored.
        """
        with self._database() as database:
            bound = database.execute(
                "UPDATE tokens SET key_sha256 = ?1 WHERE id = ?2"
                " AND (key_sha256 IS NULL OR key_sha256 = ?1)",
                (key_sha256, token_id),
            )
            return bound.rowcount == 1

    def add_certificate(self, certificate: CertificateRecord) -> None:
        """Stores a certificate, before it is sent.

        Raises:
            StorageError: It cannot be stored.
        """
        row = (
            f"{certificate.serial:x}",
            certificate.device,
            certificate.key_sha256,
            certificate.pem,
            _text(certificate.issued),
            _text(certificate.expires),
        )
        with self._database() as database:
            database.execute("INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, NULL)", row)

    def certificates(self, device: str | None = None) -> list[CertificateRecord]:
        """Returns every certificate, or a device's, in the order in which they were given.

        Raises:
            StorageError: They cannot be read.
        """
        with self._database() as database:
            rows = database.execute(
                "SELECT serial, device, key_sha256, pem, issued, expires, revoked"
                " FROM certificates WHERE ?1 IS NULL OR device = ?1 ORDER BY issued, rowid",
                (device,),
            ).fetchall()
        return [_certificate(row) for row in rows]

    def revoked(self, now: datetime) -> list[CertificateRecord]:
        """Returns the certificates that are revoked and would be valid otherwise.

        Raises:
            StorageError: They cannot be read.
        """
        return [one for one in self.certificates() if one.revoked and one.expires > now]

    def revoke(self, device: str, now: datetime) -> tuple[int, int]:
        """Revokes a device's certificates and ends its tokens.

        Returns:
            How many of both there were, and the revision.

        Raises:
            StorageError: It cannot be stored.
        """
        with self._database() as database:
            certificates = database.execute(
                "UPDATE certificates SET revoked = ?1"
                " WHERE device = ?2 AND revoked IS NULL AND expires > ?1",
                (_text(now), device),
            ).rowcount
            tokens = database.execute(
                "UPDATE tokens SET expires = ?1 WHERE device = ?2 AND expires > ?1",
                (_text(now), device),
            ).rowcount
            return certificates + tokens, _raise_revision(database)

    @property
    def revision(self) -> int:
        """The number of the last change."""
        return self._revisions()[0]

    @property
    def revision_in_force(self) -> int:
        """The number of the last change that the broker was told of."""
        return self._revisions()[1]

    def note_in_force(self, revision: int) -> None:
        """Notes that the broker has been told of everything up to a revision.

        Raises:
            StorageError: It cannot be stored.
        """
        with self._database() as database:
            database.execute("UPDATE revisions SET in_force = ?", (revision,))

    def _revisions(self) -> tuple[int, int]:
        with self._database() as database:
            made, in_force = database.execute("SELECT made, in_force FROM revisions").fetchone()
        return int(made), int(in_force)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self._path, timeout=_BUSY_S)
            try:
                with database:
                    yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise StorageError(f"the register of devices {self._path} fails: {error}") from error


def _raise_revision(database: sqlite3.Connection) -> int:
    (made,) = database.execute("UPDATE revisions SET made = made + 1 RETURNING made").fetchone()
    return int(made)


def _text(when: datetime) -> str:
    """Returns a form whose order as text is the order in time; all are UTC."""
    return when.isoformat(timespec="milliseconds")


def _token(row: tuple[str, str, str, str, str | None]) -> TokenRecord:
    token_id, device, password, expires, key_sha256 = row
    return TokenRecord(
        id=token_id,
        device=device,
        password=password,
        expires=datetime.fromisoformat(expires),
        key_sha256=key_sha256,
    )


def _certificate(row: tuple[str, str, str, str, str, str, str | None]) -> CertificateRecord:
    serial, device, key_sha256, pem, issued, expires, revoked = row
    return CertificateRecord(
        serial=int(serial, 16),
        device=device,
        key_sha256=key_sha256,
        pem=pem,
        issued=datetime.fromisoformat(issued),
        expires=datetime.fromisoformat(expires),
        revoked=datetime.fromisoformat(revoked) if revoked else None,
    )
