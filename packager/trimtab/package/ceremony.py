"""What the people do who keep the keys: rotate, renew, sign, and look at where things stand."""

from __future__ import annotations

from trimtab.errors import MissingKeyError
from trimtab.package.changes import OfflineRole, Outcome
from trimtab.package.parts import Parts
from trimtab.package.rotation import Rotation, Rotator
from trimtab.package.status import RepositoryStatus, describe
from trimtab_agent.errors import CallerError


class Ceremony:
    """The operations on the keys of one repository (docs/keys.md).

    Args:
        parts: The repository's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def can_release(self) -> bool:
        """Says whether the keys that are here are enough for a release; unlocks them.

        Raises:
            RepositoryError: A key or a metadata file is broken, or a key stays locked.
        """
        return not self._parts.changes.can_list_targets()

    def check_can_release(self) -> None:
        """Makes sure that the keys for a release are here, and unlocked.

        Raises:
            MissingKeyError: They are not.
            RepositoryError: A key or a metadata file is broken, or a key stays locked.
        """
        problems = self._parts.changes.can_list_targets()
        if problems:
            raise MissingKeyError(f"a release cannot be signed here: {'; '.join(problems)}")

    def rotate(self, rotation: Rotation) -> Outcome:
        """Changes the keys of a role, or stages the change until enough keys have signed it.

        Raises:
            CallerError: The role, a key or the threshold cannot be what is asked for.
            RepositoryError: A key or a file is damaged, or a key stays locked.
            StorageError: A file cannot be written.
        """
        parts = self._parts
        with parts.sole_writer():
            return Rotator(parts.changes, parts.keys, parts.targets).rotate(rotation)

    def renew(self, role: OfflineRole) -> Outcome:
        """Makes root or targets metadata with a fresh expiry; raises as `rotate`."""
        with self._parts.sole_writer():
            return self._parts.changes.renew(role)

    def sign(self) -> Outcome:
        """Signs what is staged with the keys that are here, and puts it in force if that is enough.

        Raises:
            RepositoryError: A key or a file is damaged, or a key stays locked.
            StorageError: A file cannot be written.
        """
        with self._parts.sole_writer():
            return self._parts.changes.advance()

    def status(self) -> RepositoryStatus:
        """Returns the roles with keys, thresholds, versions and expiries, and what is staged.

        Raises:
            RepositoryError: A file is missing or broken.
        """
        state = self._parts.changes.state()
        return describe(
            state,
            snapshot=self._parts.metadata.snapshot().signed,
            timestamp=self._parts.metadata.timestamp().signed,
            keys=self._parts.keys,
            assignment_keys=self._parts.assignment_keys(),
            waiting=self._parts.changes.missing(state),
            counter=self._parts.counters.highest(),
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
        return self._parts.counters.skip(by)
