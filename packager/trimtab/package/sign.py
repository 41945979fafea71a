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

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from trimtab.errors import MissingKeyError, RepositoryError, StagedError
from trimtab.package.changes import Changes, OfflineRole, Outcome
from trimtab.package.counters import Counters
from trimtab.package.files import remove_unfinished
from trimtab.package.keys import KeySources, KeyStore
from trimtab.package.metadata import EXPIRY_DAYS, Clock, MetadataFiles, utc_now
from trimtab.package.new_repository import KeyPlan, fill
from trimtab.package.public_keys import ASSIGNMENT, assignment_key
from trimtab.package.rotation import Rotation, Rotator
from trimtab.package.staged import StagedFiles
from trimtab.package.status import RepositoryStatus, describe
from trimtab.package.target_files import TargetFiles, check_release
from trimtab_agent.contract import codec
from trimtab_agent.contract.commands import COMMAND_CONTEXT, Action, Command
from trimtab_agent.contract.messages import (
    ASSIGNMENT_CONTEXT,
    ASSIGNMENT_KEYS_TARGET,
    Assignment,
    AssignmentKeys,
    Signature,
    Signed,
)
from trimtab_agent.contract.topics import check_device_id
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import CallerError

ASSIGNMENT_DAYS = 30
"""How long an assignment holds: a device that was off for a month still takes it, and one that
is replayed later to a device whose memory was wiped is refused."""

COMMAND_HOURS = 1
"""How long a command holds: it is for now. A device whose clock is wrong by more refuses it."""

ROOT_FILE = "1.root.json"
_WRITTEN = ("targets", "metadata/staged")


class Repository:
    """A repository on this machine. `init` makes one, `open` finds one.

    Args:
        directory: Where it is.
        sources: Where keys are besides the repository's own folder, and what unlocks them.
        clock: The time in UTC, in whole seconds.
    """

    def __init__(
        self, directory: Path, *, sources: KeySources | None = None, clock: Clock = utc_now
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._keys = KeyStore(directory / "keys", sources or KeySources())
        self._metadata = MetadataFiles(directory / "metadata")
        self._targets = TargetFiles(directory / "targets")
        self._counters = Counters(directory / "counters.sqlite")
        staged = StagedFiles(directory / "metadata" / "staged")
        self._changes = Changes(self._metadata, staged, self._keys, clock)

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
        if repository._metadata.is_interrupted:
            with repository._sole_writer():
                pass
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
        with self._sole_writer():
            released = self.targets()
            for name, data in targets.items():
                check_release(name, data, released)
            new = {name: data for name, data in targets.items() if name not in released}
            if not new:
                return
            self._changes.can_list_targets()  # a key that stays locked fails before any write
            listed = self._targets.write(new)
            staged = self._changes.state().staged_targets
            waits = staged is not None and listed.items() <= staged.signed.targets.items()
            outcome = self._changes.advance() if waits else self._changes.list_targets(listed)
            if not new.keys() <= self.targets().keys():
                raise StagedError(_staged_message(new, outcome))

    def check_can_release(self) -> None:
        """Makes sure that the keys for a release are here, and unlocked.

        Raises:
            MissingKeyError: They are not.
            RepositoryError: A key or a metadata file is broken, or a key stays locked.
        """
        problems = self._changes.can_list_targets()
        if problems:
            raise MissingKeyError(f"a release cannot be signed here: {'; '.join(problems)}")

    def rotate(self, rotation: Rotation) -> Outcome:
        """Changes the keys of a role, or stages the change until enough keys have signed it.

        Raises:
            CallerError: The role, a key or the threshold cannot be what is asked for.
            RepositoryError: A key or a file is damaged, or a key stays locked.
            StorageError: A file cannot be written.
        """
        with self._sole_writer():
            return Rotator(self._changes, self._keys, self._targets).rotate(rotation)

    def renew(self, role: OfflineRole) -> Outcome:
        """Makes root or targets metadata with a fresh expiry; raises as `rotate`."""
        with self._sole_writer():
            return self._changes.renew(role)

    def sign(self) -> Outcome:
        """Signs what is staged with the keys that are here, and puts it in force if that is enough.

        Raises:
            RepositoryError: A key or a file is damaged, or a key stays locked.
            StorageError: A file cannot be written.
        """
        with self._sole_writer():
            return self._changes.advance()

    def status(self) -> RepositoryStatus:
        """Returns the roles with keys, thresholds, versions and expiries, and what is staged.

        Raises:
            RepositoryError: A file is missing or broken.
        """
        state = self._changes.state()
        return describe(
            state,
            snapshot=self._metadata.snapshot().signed,
            timestamp=self._metadata.timestamp().signed,
            keys=self._keys,
            assignment_keys=self._assignment_keys(),
            waiting=self._changes.missing(state),
            counter=self._counters.highest(),
        )

    def skip_counters(self, by: int) -> int:
        """Lets every device's counter go on from `by` above the highest; returns that number.

        For a `counters.sqlite` that is older than what devices have seen.

        Raises:
            CallerError: `by` is not positive.
            RepositoryError: The file cannot be written or is no database.
        """
        if by < 1:
            raise CallerError(f"counters only rise: {by} is not above zero")
        return self._counters.skip(by)

    def refresh_timestamp(self) -> Outcome:
        """Signs a new timestamp, and a new snapshot once half of its time is over.

        Devices refuse what has expired. Publishing and assigning call this when it is due; a host
        that does neither for days must call it, and publish the metadata.

        Raises:
            RepositoryError: A key or a metadata file is missing or broken.
            StorageError: The disk has no room or refuses a write.
        """
        with self._sole_writer():
            return self._changes.renew_online(snapshot=self._is_half_over("snapshot"))

    @property
    def needs_refresh(self) -> bool:
        """Whether the timestamp or the snapshot has less than half of its time left."""
        return self._is_half_over("timestamp") or self._is_half_over("snapshot")

    def _is_half_over(self, role: Literal["snapshot", "timestamp"]) -> bool:
        expires = (
            self._metadata.snapshot().signed.expires
            if role == "snapshot"
            else self._metadata.timestamp().signed.expires
        )
        return expires - self._clock() < timedelta(days=EXPIRY_DAYS[role] / 2)

    def targets(self) -> dict[str, str]:
        """Returns the SHA-256 of every released TUF target, by name.

        Raises:
            RepositoryError: A metadata file is missing or broken.
        """
        return {
            name: target.hashes["sha256"]
            for name, target in self._metadata.targets().signed.targets.items()
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
        with self._sole_writer():
            released = sorted(self.targets().items())
            names = self._metadata.names_in_force()
            metadata = {name: self._metadata.read_bytes(name) for name in names}
        for name, sha256 in released:
            yield sha256, self._targets.read(name, sha256)
        yield from metadata.items()

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
        return self.sign_message(codec.encode(assignment), ASSIGNMENT_CONTEXT)

    def new_command(self, device: str, action: Action, *, lines: int | None = None) -> Command:
        """Returns a command with the device's next counter: the sequence that assignments have.

        Args:
            device: The device it is for.
            action: What it is to do.
            lines: For `logs`: how many; None leaves it at the default.

        Raises:
            CallerError: The device id cannot be used.
            RepositoryError: The counters cannot be kept.
        """
        check_device_id(device)
        now = self._clock()
        command = Command(
            device=device,
            counter=self._counters.next(device),
            action=action,
            issued=_rfc3339(now),
            expires=_rfc3339(now + timedelta(hours=COMMAND_HOURS)),
        )
        return command if lines is None else msgspec.structs.replace(command, lines=lines)

    def sign_command(self, command: Command) -> bytes:
        """Returns the message for the device: the command with a signature over its bytes.

        Raises:
            RepositoryError: The assignment key is missing or broken.
        """
        return self.sign_message(codec.encode(command), COMMAND_CONTEXT)

    def sign_message(self, payload: bytes, context: bytes) -> bytes:
        """Returns a `Signed` message by the assignment keys that are here.

        Args:
            payload: What is signed.
            context: The prefix that says what the signature is for.

        Raises:
            MissingKeyError: No assignment key is here.
            RepositoryError: A key is broken.
        """
        signatures, problems = [], []
        for keyid, raw in self._assignment_keys().items():
            try:
                signed = self._keys.sign(ASSIGNMENT, assignment_key(raw), context + payload)
            except MissingKeyError as error:
                problems.append(str(error))
            else:
                signature = bytes.fromhex(signed.signature)
                signatures.append(Signature(keyid=keyid, signature=signature))
        if not signatures:
            raise MissingKeyError("; ".join(problems))
        return codec.encode(Signed(payload=payload, signatures=tuple(signatures)))

    def _assignment_keys(self) -> dict[str, bytes]:
        """Returns the raw public keys that devices take assignments of, by key id."""
        data = self.target(ASSIGNMENT_KEYS_TARGET)
        return codec.decode(data, AssignmentKeys, what=ASSIGNMENT_KEYS_TARGET).keys

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
            self._metadata.finish()
            for folder in (*self._keys.folders, *(self._directory / part for part in _WRITTEN)):
                remove_unfinished(folder)
            yield


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


def _rfc3339(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
