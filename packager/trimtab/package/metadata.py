"""TUF metadata as files in a directory: loaded, signed and written in a safe order.

With consistent snapshots (TUF specification, section 6.2) every version is a file of its own,
except `timestamp.json`. That file is what makes new versions visible, so it is written last: a
process that dies before it leaves the old state in force, and the next one writes over the files
that nobody has seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from trimtab.errors import RepositoryError
from trimtab.package.files import write_atomically
from trimtab.package.keys import TUF_ROLES, KeyStore

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
_ROOT = re.compile(r"(\d+)\.root\.json")


def utc_now() -> datetime:
    """Returns the time in UTC, in whole seconds: TUF writes no fractions."""
    return datetime.now(timezone.utc).replace(microsecond=0)


class MetadataFiles:
    """The metadata of one repository.

    Args:
        directory: Where the files are.
        keys: What signs them.
        clock: The time in UTC, in whole seconds.
    """

    def __init__(self, directory: Path, keys: KeyStore, clock: Clock) -> None:
        self._directory = directory
        self._keys = keys
        self._clock = clock

    def init(self, targets: dict[str, TargetFile]) -> None:
        """Writes version 1 of everything.

        Raises:
            RepositoryError: A key is missing.
            StorageError: A file cannot be written.
        """
        root = Root(consistent_snapshot=True, expires=self._expiry("root"))
        for role in TUF_ROLES:
            root.add_key(self._keys.signer(role).public_key, role)
        self._write("1.root.json", root)
        listed = self._write("1.targets.json", Targets(targets=targets))
        meta = {"targets.json": _metafile(1, listed)}
        snapshot = self._write("1.snapshot.json", Snapshot(meta=meta))
        self._write("timestamp.json", Timestamp(snapshot_meta=_metafile(1, snapshot)))

    def add(self, added: dict[str, TargetFile]) -> None:
        """Lists more TUF targets: new targets, snapshot and timestamp metadata, in this order.

        Raises:
            RepositoryError: A key or a file is missing or broken.
            StorageError: A file cannot be written.
        """
        targets = self.targets()
        targets.version += 1
        targets.targets.update(added)
        data = self._write(f"{targets.version}.targets.json", targets)
        self.renew_snapshot(targets=_metafile(targets.version, data))

    def renew_snapshot(self, *, targets: MetaFile | None = None) -> None:
        """Signs a new snapshot, and the timestamp that makes it visible.

        Args:
            targets: The targets metadata to list from now on; None keeps the one before.

        Raises:
            RepositoryError: A key or a file is missing or broken.
            StorageError: A file cannot be written.
        """
        snapshot = self.snapshot()
        snapshot.version += 1
        if targets is not None:
            snapshot.meta["targets.json"] = targets
        data = self._write(f"{snapshot.version}.snapshot.json", snapshot)
        self.renew_timestamp(snapshot=_metafile(snapshot.version, data))

    def renew_timestamp(self, *, snapshot: MetaFile | None = None) -> None:
        """Signs a new timestamp.

        Args:
            snapshot: The snapshot to name from now on; None keeps the one before.

        Raises:
            RepositoryError: A key or a file is missing or broken.
            StorageError: The file cannot be written.
        """
        timestamp = self.timestamp()
        timestamp.version += 1
        if snapshot is not None:
            timestamp.snapshot_meta = snapshot
        self._write("timestamp.json", timestamp)

    def timestamp(self) -> Timestamp:
        """Returns the timestamp that is in force."""
        return self._read("timestamp.json", Timestamp)

    def snapshot(self) -> Snapshot:
        """Returns the snapshot that is in force."""
        version = self.timestamp().snapshot_meta.version
        return self._read(f"{version}.snapshot.json", Snapshot)

    def targets(self) -> Targets:
        """Returns the list of TUF targets that is in force."""
        version = self.snapshot().meta["targets.json"].version
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
        snapshot = self.snapshot()
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

    def _read(self, name: str, kind: type[S]) -> S:
        try:
            metadata = Metadata[S].from_bytes(self.read_bytes(name))
        except (DeserializationError, TufError) as error:
            raise RepositoryError(
                f"{self._directory / name} is no TUF metadata: {error}; restore it from a backup"
            ) from error
        if not isinstance(metadata.signed, kind):
            raise RepositoryError(f"{self._directory / name} is not of the role {kind.type}")
        return metadata.signed

    def _write(self, name: str, signed: S) -> bytes:
        """Signs and writes one file with a fresh expiry; returns its bytes."""
        signed.expires = self._expiry(signed.type)
        metadata = Metadata(signed)
        metadata.sign(self._keys.signer(signed.type))
        data = metadata.to_bytes(JSONSerializer(compact=True))
        write_atomically(self._directory / name, data)
        return data

    def _expiry(self, role: str) -> datetime:
        return self._clock() + timedelta(days=EXPIRY_DAYS[role])


def _metafile(version: int, data: bytes) -> MetaFile:
    """Returns how one metadata file names another: version, length and hash."""
    return MetaFile.from_data(version, data, ["sha256"])
