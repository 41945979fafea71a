"""The signing repository: which packages are released, and which device should run which.

    <directory>/
      keys/      private keys, PEM files, and `signers.json`: where the others are
      metadata/  TUF metadata; `1.root.json` is what a device is given at the start
      metadata/staged/  the next root and targets metadata while they wait for signatures
      targets/   the content of TUF targets, as `<sha256>.<name>`
      counters.sqlite   the last assignment counter of each device
      lock       held while metadata changes

The TUF metadata is python-tuf's, and any TUF client can verify it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal

from trimtab.errors import RepositoryError, StagedError
from trimtab.package.ceremony import Ceremony
from trimtab.package.changes import Outcome
from trimtab.package.keys import KeySources
from trimtab.package.metadata import EXPIRY_DAYS, Clock, utc_now
from trimtab.package.new_repository import KeyPlan, fill
from trimtab.package.orders import Orders
from trimtab.package.parts import Parts
from trimtab.package.target_files import check_release
from trimtab_agent.durable import storage_errors

ROOT_FILE = "1.root.json"


class Repository:
    """A repository on this machine. `init` makes one, `open` finds one.

    Args:
        directory: Where it is.
        sources: Where keys are besides the repository's own folder, and what unlocks them.
        clock: The time in UTC, in whole seconds.

    Attributes:
        orders: Assignments and commands for devices.
        ceremony: Rotation, signatures and the state of the keys.
    """

    def __init__(
        self, directory: Path, *, sources: KeySources | None = None, clock: Clock = utc_now
    ) -> None:
        self._parts = Parts(directory, sources or KeySources(), clock)
        self.orders = Orders(self._parts)
        self.ceremony = Ceremony(self._parts)

    @classmethod
    def init(
        cls,
        directory: Path,
        *,
        plan: KeyPlan | None = None,
        sources: KeySources | None = None,
        clock: Clock = utc_now,
    ) -> Repository:
        """Makes a repository with new keys and no packages, whole or not at all.

        Args:
            directory: Must not exist, or be empty.
            plan: How many offline keys there are; by default one a role.
            sources: A folder for the offline keys, and their passphrase.
            clock: The time in UTC, in whole seconds.

        Raises:
            CallerError: A key of one of the names exists in the folder for the offline keys.
            RepositoryError: The directory holds something already.
            StorageError: The disk has no room or refuses a write.
        """
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise RepositoryError(f"{directory} is not empty: take a new directory for the keys")
        sources = sources or KeySources()
        with storage_errors(f"making the repository {directory}"):
            directory.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".new-repository-"))
            try:
                with _no_keys_left(sources.folder):
                    fill(staging, plan or KeyPlan(), sources, clock)
                    staging.replace(directory)
            except BaseException:
                shutil.rmtree(staging)
                raise
        return cls(directory, sources=sources, clock=clock)

    @classmethod
    def open(
        cls, directory: Path, *, sources: KeySources | None = None, clock: Clock = utc_now
    ) -> Repository:
        """Opens a repository, and finishes a change that a process had died in.

        Raises:
            RepositoryError: There is none, or its metadata is broken.
            StorageError: The disk refuses.
        """
        if not (directory / "metadata" / "timestamp.json").is_file():
            raise RepositoryError(
                f"{directory} is no signing repository: it has no metadata/timestamp.json; make "
                f"one with Repository.init"
            )
        repository = cls(directory, sources=sources, clock=clock)
        repository._finish()
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
            StagedError: The keys that are here are not enough. The targets are staged, and are
                released by `sign` on the machines with the other keys.
            RepositoryError: A key or a metadata file is missing or broken, or a key stays locked.
            StorageError: The disk has no room or refuses a write.
        """
        changes = self._parts.changes
        with self._parts.sole_writer():
            released = self.targets()
            for name, data in targets.items():
                check_release(name, data, released)
            new = {name: data for name, data in targets.items() if name not in released}
            if not new:
                return
            changes.can_list_targets()  # a key that stays locked fails before any write
            listed = self._parts.targets.write(new)
            staged = changes.state().staged_targets
            waits = staged is not None and listed.items() <= staged.signed.targets.items()
            outcome = changes.advance() if waits else changes.list_targets(listed)
            if not new.keys() <= self.targets().keys():
                raise StagedError(_staged_message(new, outcome))

    def refresh_timestamp(self) -> Outcome:
        """Signs a new timestamp, and a new snapshot once half of its time is over.

        Devices refuse what has expired. Publishing and assigning call this when it is due; a host
        that does neither for days must call it, and publish the metadata.

        Raises:
            RepositoryError: A key or a metadata file is missing or broken.
            StorageError: The disk has no room or refuses a write.
        """
        with self._parts.sole_writer():
            return self._parts.changes.renew_online(snapshot=self._is_half_over("snapshot"))

    @property
    def needs_refresh(self) -> bool:
        """Whether the timestamp or the snapshot has less than half of its time left."""
        return self._is_half_over("timestamp") or self._is_half_over("snapshot")

    def _is_half_over(self, role: Literal["snapshot", "timestamp"]) -> bool:
        expires = (
            self._parts.metadata.snapshot().signed.expires
            if role == "snapshot"
            else self._parts.metadata.timestamp().signed.expires
        )
        return expires - self._parts.clock() < timedelta(days=EXPIRY_DAYS[role] / 2)

    def targets(self) -> dict[str, str]:
        """Returns the SHA-256 of every released TUF target, by name.

        Raises:
            RepositoryError: A metadata file is missing or broken.
        """
        return self._parts.released()

    def target(self, name: str) -> bytes:
        """Returns the content of a released TUF target.

        Raises:
            CallerError: It is not released.
            RepositoryError: Its file is missing or has other bytes.
        """
        return self._parts.targets.read(name, self._parts.sha256_of(name))

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Yields what a device reads, by document name, in the order in which to publish it.

        TUF targets come first, under their SHA-256, then the metadata that lists them, and
        `timestamp.json` last: whoever sees it finds everything that it leads to.

        Raises:
            RepositoryError: A file is missing or broken.
        """
        with self._parts.sole_writer():
            released = sorted(self.targets().items())
            names = self._parts.metadata.names_in_force()
            metadata = {name: self._parts.metadata.read_bytes(name) for name in names}
        for name, sha256 in released:
            yield sha256, self._parts.targets.read(name, sha256)
        yield from metadata.items()

    @property
    def root_version(self) -> int:
        """Version of the newest root metadata."""
        return self._parts.metadata.root_versions()[-1]

    @property
    def root(self) -> bytes:
        """The first root metadata: what a device is given, by hand, to trust."""
        return self._parts.metadata.read_bytes(ROOT_FILE)

    def _finish(self) -> None:
        if self._parts.metadata.is_interrupted:
            with self._parts.sole_writer():
                pass


@contextmanager
def _no_keys_left(folder: Path | None) -> Iterator[None]:
    """Removes the new key files in `folder` again if the block fails."""
    before = set() if folder is None else set(folder.glob("*.pem"))
    try:
        yield
    except BaseException:
        if folder is not None:
            for path in set(folder.glob("*.pem")) - before:
                path.unlink()
        raise


def _staged_message(new: Mapping[str, bytes], outcome: Outcome) -> str:
    return (
        f"{', '.join(new)}: staged, not released yet; {'; '.join(outcome.waiting)}. Bring the "
        f"workspace to the keys, or the keys here, and run: trimtab repo sign"
    )
