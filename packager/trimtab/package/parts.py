"""The parts of a signing repository on disk, and the lock that writers take turns by."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.package.changes import Changes
from trimtab.package.counters import Counters
from trimtab.package.files import remove_unfinished
from trimtab.package.keys import KeySources, KeyStore
from trimtab.package.metadata import Clock, MetadataFiles
from trimtab.package.staged import StagedFiles
from trimtab.package.target_files import TargetFiles
from trimtab_agent.contract.messages import ASSIGNMENT_KEYS_TARGET
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import CallerError

_WRITTEN = ("targets", "metadata/staged")


class Parts:
    """What the operations on one repository work with.

    Args:
        directory: Where it is.
        sources: Where keys are besides the repository's own folder, and what unlocks them.
        clock: The time in UTC, in whole seconds.
    """

    def __init__(self, directory: Path, sources: KeySources, clock: Clock) -> None:
        self.directory = directory
        self.clock = clock
        self.keys = KeyStore(directory / "keys", sources)
        self.metadata = MetadataFiles(directory / "metadata")
        self.targets = TargetFiles(directory / "targets")
        self.counters = Counters(directory / "counters.sqlite")
        staged = StagedFiles(directory / "metadata" / "staged")
        self.changes = Changes(self.metadata, staged, self.keys, clock)

    @contextmanager
    def sole_writer(self) -> Iterator[None]:
        """Keeps other processes from signing other content under the same version.

        What a process that died had decided is finished first, and what it had not is removed.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"locking {self.directory}"):
            file = (self.directory / "lock").open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.metadata.finish()
            for folder in (*self.keys.folders, *(self.directory / part for part in _WRITTEN)):
                remove_unfinished(folder)
            yield

    def released(self) -> dict[str, str]:
        """Returns the SHA-256 of every released TUF target, by name.

        Raises:
            RepositoryError: A metadata file is missing or broken.
        """
        listed = self.metadata.targets().signed.targets
        return {name: target.hashes["sha256"] for name, target in listed.items()}

    def sha256_of(self, name: str) -> str:
        """Returns the SHA-256 of a released TUF target.

        Raises:
            CallerError: It is not released.
            RepositoryError: A metadata file is missing or broken.
        """
        released = self.released()
        if name not in released:
            packages = sorted(set(released) - {ASSIGNMENT_KEYS_TARGET})
            raise CallerError(
                f"{name!r} is not released here; released are: {', '.join(packages) or 'none'}"
            )
        return released[name]

    def assignment_keys(self) -> dict[str, bytes]:
        """Returns the raw public keys that devices take assignments of, by key id.

        Raises:
            RepositoryError: The list is missing or broken.
        """
        return self.targets.read_assignment_keys(self.sha256_of(ASSIGNMENT_KEYS_TARGET))
