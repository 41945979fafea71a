"""The signing repository: which packages are released, and which device should run which.

    <directory>/
      keys/      private keys, one PEM file a role
      metadata/  TUF metadata; `1.root.json` is what a device is given at the start
      targets/   the content of TUF targets, as `<sha256>.<name>`
      counters.sqlite   the last assignment counter of each device
      lock       held while metadata changes

The TUF metadata is python-tuf's, and any TUF client can verify it.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from trimtab.errors import RepositoryError
from trimtab.package.counters import Counters
from trimtab.package.keys import KeyStore
from trimtab.package.metadata import EXPIRY_DAYS, Clock, MetadataFiles, utc_now
from trimtab.package.target_files import TargetFiles, check_release
from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import (
    ASSIGNMENT_KEYS_TARGET,
    Assignment,
    AssignmentKeys,
    Signed,
)
from trimtab_agent.contract.topics import check_device_id
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import CallerError

ASSIGNMENT_DAYS = 30
"""How long an assignment holds: a device that was off for a month still takes it, and one that
is replayed later to a device whose memory was wiped is refused."""

ROOT_FILE = "1.root.json"


class Repository:
    """A repository on this machine. `init` makes one, `open` finds one.

    Args:
        directory: Where it is.
        clock: The time in UTC, in whole seconds.
    """

    def __init__(self, directory: Path, *, clock: Clock = utc_now) -> None:
        self._directory = directory
        self._clock = clock
        self._keys = KeyStore(directory / "keys")
        self._metadata = MetadataFiles(directory / "metadata", self._keys, clock)
        self._targets = TargetFiles(directory / "targets")
        self._counters = Counters(directory / "counters.sqlite")

    @classmethod
    def init(cls, directory: Path, *, clock: Clock = utc_now) -> Repository:
        """Makes a repository with new keys and no packages, whole or not at all.

        Args:
            directory: Must not exist, or be empty.
            clock: The time in UTC, in whole seconds.

        Raises:
            RepositoryError: The directory holds something already.
            StorageError: The disk has no room or refuses a write.
        """
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise RepositoryError(f"{directory} is not empty: take a new directory for the keys")
        with storage_errors(f"making the repository {directory}"):
            directory.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".new-repository-"))
            try:
                _fill(staging, clock)
                staging.replace(directory)
            except BaseException:
                shutil.rmtree(staging)
                raise
        return cls(directory, clock=clock)

    @classmethod
    def open(cls, directory: Path, *, clock: Clock = utc_now) -> Repository:
        """Opens a repository.

        Raises:
            RepositoryError: There is none, or its metadata is broken.
        """
        if not (directory / "metadata" / "timestamp.json").is_file():
            raise RepositoryError(
                f"{directory} is no signing repository: it has no metadata/timestamp.json; make "
                f"one with Repository.init"
            )
        repository = cls(directory, clock=clock)
        repository.targets()
        return repository

    def add_target(self, name: str, data: bytes) -> None:
        """Releases one TUF target; see `add_targets`."""
        self.add_targets({name: data})

    def add_targets(self, targets: Mapping[str, bytes]) -> None:
        """Releases TUF targets. Those that are released already, with the same bytes, stay.

        Args:
            targets: Contents by name.

        Raises:
            CallerError: A name cannot be used, or is released with other content.
            RepositoryError: A key or a metadata file is missing or broken.
            StorageError: The disk has no room or refuses a write.
        """
        with self._sole_writer():
            released = self.targets()
            for name, data in targets.items():
                check_release(name, data, released)
            new = {name: data for name, data in targets.items() if name not in released}
            if new:
                self._metadata.add(self._targets.write(new))

    def refresh_timestamp(self) -> None:
        """Signs a new timestamp, and a new snapshot once half of its time is over.

        Devices refuse what has expired. Publishing and assigning call this when it is due; a host
        that does neither for days must call it, and publish the metadata.

        Raises:
            RepositoryError: A key or a metadata file is missing or broken.
            StorageError: The disk has no room or refuses a write.
        """
        with self._sole_writer():
            if self._is_half_over("snapshot"):
                self._metadata.renew_snapshot()
            else:
                self._metadata.renew_timestamp()

    @property
    def needs_refresh(self) -> bool:
        """Whether the timestamp or the snapshot has less than half of its time left."""
        return self._is_half_over("timestamp") or self._is_half_over("snapshot")

    def _is_half_over(self, role: Literal["snapshot", "timestamp"]) -> bool:
        signed = self._metadata.snapshot() if role == "snapshot" else self._metadata.timestamp()
        return signed.expires - self._clock() < timedelta(days=EXPIRY_DAYS[role] / 2)

    def targets(self) -> dict[str, str]:
        """Returns the SHA-256 of every released TUF target, by name.

        Raises:
            RepositoryError: A metadata file is missing or broken.
        """
        return {
            name: target.hashes["sha256"]
            for name, target in self._metadata.targets().targets.items()
        }

    def target(self, name: str) -> bytes:
        """Returns the content of a released TUF target.

        Raises:
            CallerError: It is not released.
            RepositoryError: Its file is missing or has other bytes.
        """
        return self._targets.read(name, self._released(name))

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Yields what a device reads, by document name, in the order in which to publish it.

        TUF targets come first, under their SHA-256, then the metadata that lists them, and
        `timestamp.json` last: whoever sees it finds everything that it leads to.

        Raises:
            RepositoryError: A file is missing or broken.
        """
        for name, sha256 in sorted(self.targets().items()):
            yield sha256, self._targets.read(name, sha256)
        for name in self._metadata.names_in_force():
            yield name, self._metadata.read_bytes(name)

    @property
    def root_version(self) -> int:
        """Version of the newest root metadata."""
        return self._metadata.root_versions()[-1]

    @property
    def root(self) -> bytes:
        """The first root metadata: what a device is given, by hand, to trust."""
        return self._metadata.read_bytes(ROOT_FILE)

    def new_assignment(self, device: str, target: str, *, trial: str | None = None) -> Assignment:
        """Returns an assignment with the device's next counter.

        Args:
            device: The device it is for.
            target: TUF target name of a released package.
            trial: Copied into the report.

        Raises:
            CallerError: The device id cannot be used, or the package is not released.
            RepositoryError: The counters cannot be kept, or the metadata is broken.
        """
        check_device_id(device)
        self._released(target)
        now = self._clock()
        return Assignment(
            device=device,
            counter=self._counters.next(device),
            target=target,
            issued=_rfc3339(now),
            expires=_rfc3339(now + timedelta(days=ASSIGNMENT_DAYS)),
            trial=trial,
        )

    def sign_assignment(self, assignment: Assignment) -> bytes:
        """Returns the message for the device: the assignment with a signature over its bytes.

        Raises:
            RepositoryError: The assignment key is missing or broken.
        """
        payload = codec.encode(assignment)
        signature = self._keys.sign_assignment(payload)
        return codec.encode(Signed(payload=payload, signatures=(signature,)))

    def _released(self, name: str) -> str:
        """Returns the SHA-256 of a released target."""
        released = self.targets()
        if name not in released:
            packages = sorted(set(released) - {ASSIGNMENT_KEYS_TARGET})
            raise CallerError(
                f"{name!r} is not released here; released are: {', '.join(packages) or 'none'}"
            )
        return released[name]

    @contextmanager
    def _sole_writer(self) -> Iterator[None]:
        """Keeps other processes from signing other content under the same version."""
        with storage_errors(f"locking {self._directory}"):
            file = (self._directory / "lock").open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _fill(directory: Path, clock: Clock) -> None:
    """Makes the first state: the keys, and the list of who may sign assignments."""
    (directory / "metadata").mkdir()
    (directory / "targets").mkdir()
    keys = KeyStore(directory / "keys")
    keys.generate()
    keyid, raw = keys.assignment_key()
    allowed = codec.encode(AssignmentKeys(keys={keyid: raw}))
    listed = TargetFiles(directory / "targets").write({ASSIGNMENT_KEYS_TARGET: allowed})
    MetadataFiles(directory / "metadata", keys, clock).init(listed)


def _rfc3339(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
