"""The TUF metadata that is in force, as files in a directory.

With consistent snapshots (TUF specification, section 6.2) every version is a file of its own,
except `timestamp.json`. New versions appear together (trimtab.package.redo), `timestamp.json`
last: it is what makes them visible to devices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from trimtab.errors import RepositoryError
from trimtab.package import redo

EXPIRY_DAYS = {
    "root": 365,
    # Root and targets are signed with keys that are kept offline: a person must fetch them.
    "targets": 365,
    # Snapshot and timestamp are signed by the host unattended. Seven days bound how long someone
    # who controls the broker can hold updates back, and are the longest that a device may be
    # served from a host that is switched off.
    "snapshot": 30,
    "timestamp": 7,
}
"""Days until each role's metadata expires."""

Clock = Callable[[], datetime]
S = TypeVar("S", Root, Targets, Snapshot, Timestamp)
_ROOT = re.compile(r"([1-9]\d*)\.root\.json")


def utc_now() -> datetime:
    """Returns the time in UTC, in whole seconds: TUF writes no fractions."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def expiry(role: str, clock: Clock) -> datetime:
    """Returns when metadata of `role` that is signed now expires."""
    return clock() + timedelta(days=EXPIRY_DAYS[role])


class MetadataFiles:
    """The metadata of one repository.

    Args:
        directory: Where the files are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def is_interrupted(self) -> bool:
        """Whether a process died while it put new versions in place."""
        return redo.is_interrupted(self._directory)

    def finish(self) -> None:
        """Puts in place what a process that died had left.

        Raises:
            StorageError: The disk refuses.
        """
        redo.finish(self._directory)

    def replace(self, files: Mapping[str, bytes]) -> None:
        """Puts new versions in force, all of them or none.

        Args:
            files: Contents by name; `timestamp.json` last.

        Raises:
            StorageError: A file cannot be written; the old versions stay in force.
        """
        redo.replace_together(self._directory, files)

    def root(self) -> Metadata[Root]:
        """Returns the newest root."""
        return self._read(f"{self.root_versions()[-1]}.root.json", Root)

    def timestamp(self) -> Metadata[Timestamp]:
        """Returns the timestamp that is in force."""
        return self._read("timestamp.json", Timestamp)

    def snapshot(self) -> Metadata[Snapshot]:
        """Returns the snapshot that is in force."""
        version = self.timestamp().signed.snapshot_meta.version
        return self._read(f"{version}.snapshot.json", Snapshot)

    def targets(self) -> Metadata[Targets]:
        """Returns the list of TUF targets that is in force."""
        version = self.snapshot().signed.meta["targets.json"].version
        return self._read(f"{version}.targets.json", Targets)

    def root_versions(self) -> list[int]:
        """Returns the versions of the root metadata, from 1 up."""
        matches = (_ROOT.fullmatch(path.name) for path in self._directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def names_in_force(self) -> list[str]:
        """Returns the files that a device needs, in the order in which to publish them.

        What another file refers to comes before it, and `timestamp.json`, which starts every
        update, comes last.
        """
        snapshot = self.snapshot().signed
        targets = snapshot.meta["targets.json"].version
        roots = [f"{version}.root.json" for version in self.root_versions()]
        return [
            *roots,
            f"{targets}.targets.json",
            f"{snapshot.version}.snapshot.json",
            "timestamp.json",
        ]

    def read_bytes(self, name: str) -> bytes:
        """Returns the bytes of a metadata file.

        Raises:
            RepositoryError: It is missing.
        """
        try:
            return (self._directory / name).read_bytes()
        except OSError as error:
            raise RepositoryError(
                f"cannot read {self._directory / name}: {error.strerror}"
            ) from error

    def _read(self, name: str, kind: type[S]) -> Metadata[S]:
        return parse(self.read_bytes(name), kind, what=str(self._directory / name))


def parse(data: bytes, kind: type[S], *, what: str) -> Metadata[S]:
    """Returns metadata of a role; its signatures are not verified.

    Args:
        data: The JSON.
        kind: The role that it must be of.
        what: Where it came from, for messages.

    Raises:
        RepositoryError: It is no metadata, or of another role.
    """
    try:
        metadata = Metadata[S].from_bytes(data)
    except (DeserializationError, TufError) as error:
        raise RepositoryError(
            f"{what} is no TUF metadata: {error}; restore it from a backup"
        ) from error
    if not isinstance(metadata.signed, kind):
        raise RepositoryError(f"{what} is not of the role {kind.type}")
    return metadata


def encode(metadata: Metadata[S]) -> bytes:
    """Returns metadata as the bytes that are written, hashed and published."""
    return metadata.to_bytes(JSONSerializer(compact=True))
