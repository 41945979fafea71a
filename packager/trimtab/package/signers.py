"""`signers.json`: where the private half of each key is, by key id."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab.errors import RepositoryError
from trimtab.package.files import write_atomically
from trimtab_agent.contract import codec
from trimtab_agent.errors import FormatError

FILE_SCHEME = "file"
"""Trimtab's own scheme: `file:NAME.pem`, within a folder of keys unless the path is absolute."""


class KeyEntry(msgspec.Struct, kw_only=True, frozen=True):
    """Where a private key is.

    Attributes:
        name: What people call it.
        role: The role that it signs for.
        uri: Its place: `file:`, or a URI of securesystemslib.
    """

    name: str
    role: str
    uri: str

    @property
    def file(self) -> Path | None:
        """The key's file as the URI gives it; None for a key that is in no file of ours."""
        scheme, _, path = self.uri.partition(":")
        return Path(path) if scheme == FILE_SCHEME else None


class _Signers(msgspec.Struct, kw_only=True, frozen=True):
    keys: dict[str, KeyEntry]


class SignersFile:
    """The list in one file; no file is an empty list.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, KeyEntry]:
        """Returns the entries by key id, the oldest first.

        Raises:
            RepositoryError: The file is damaged.
        """
        if not self._path.exists():
            return {}
        try:
            return codec.decode(self._path.read_bytes(), _Signers, what=str(self._path)).keys
        except (OSError, FormatError) as error:
            raise RepositoryError(
                f"{self._path} cannot be read: {error}; restore it from a backup"
            ) from error

    def add(self, keyid: str, entry: KeyEntry) -> None:
        """Lists a key.

        Raises:
            RepositoryError: The file is damaged.
            StorageError: It cannot be written.
        """
        self._write({**self.read(), keyid: entry})

    def remove(self, keyid: str) -> None:
        """Removes a key from the list; raises as `add`."""
        self._write({key: entry for key, entry in self.read().items() if key != keyid})

    def _write(self, entries: dict[str, KeyEntry]) -> None:
        if not entries:
            self._path.unlink(missing_ok=True)
            return
        # Not in alphabetical order: the order of the keys is their age.
        data = msgspec.json.format(msgspec.json.encode(_Signers(keys=entries)), indent=2)
        write_atomically(self._path, data + b"\n", mode=0o600)
