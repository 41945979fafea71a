"""Keys that join and leave a role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root

from trimtab.errors import RepositoryError
from trimtab.package.changes import Changes, Outcome
from trimtab.package.keys import TUF_ROLES, KeyStore, NewKey
from trimtab.package.public_keys import ASSIGNMENT
from trimtab.package.target_files import TargetFiles
from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import ASSIGNMENT_KEYS_TARGET, AssignmentKeys
from trimtab_agent.errors import CallerError


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """What shall change in a role. Nothing given replaces the role's only key.

    Attributes:
        role: A role of TUF, or `assignment`.
        add: The key that joins.
        remove: Names or key ids of the keys that leave.
        threshold: How many keys must sign from now on; None leaves that as it is.
        revoke: For `assignment`: every old key leaves at once. Without it they stay valid beside
            the new one, until they are removed.
    """

    role: str
    add: NewKey | None = None
    remove: Sequence[str] = ()
    threshold: int | None = None
    revoke: bool = False


class Rotator:
    """Rotates the keys of one repository. The caller holds the lock.

    Args:
        changes: Puts the new metadata in force, or stages it.
        keys: The private keys.
        targets: The content of TUF targets, among them the list of assignment keys.
    """

    def __init__(self, changes: Changes, keys: KeyStore, targets: TargetFiles) -> None:
        self._changes = changes
        self._keys = keys
        self._targets = targets

    def rotate(self, rotation: Rotation) -> Outcome:
        """Makes the change, as far as the keys that are here can sign it.

        Raises:
            CallerError: The role, a key or the threshold cannot be what is asked for.
            RepositoryError: A key or a file is damaged, or a key stays locked.
            StorageError: A file cannot be written.
        """
        if rotation.role == ASSIGNMENT:
            return self._rotate_assignment(rotation)
        if rotation.role not in TUF_ROLES:
            raise CallerError(
                f"{rotation.role!r} is no role: take one of {', '.join((*TUF_ROLES, ASSIGNMENT))}"
            )
        if rotation.revoke:
            raise CallerError(
                "--revoke is for the assignment key: keys of other roles that are "
                "replaced or removed are never valid any longer"
            )
        return self._rotate_tuf(rotation)

    def _rotate_tuf(self, rotation: Rotation) -> Outcome:
        state = self._changes.state()
        root = (state.staged_root or state.root).signed
        role = root.roles[rotation.role]
        leaving = [self._find(rotation.role, name, role.keyids) for name in rotation.remove]
        joins = rotation.add
        if joins is None and not leaving and rotation.threshold is None:
            joins, leaving = NewKey(), [self._only_key(rotation.role, role.keyids)]
        threshold = rotation.threshold or role.threshold
        _check_threshold(rotation, len(role.keyids) - len(leaving) + (joins is not None), threshold)
        added = None if joins is None else self._keys.add(rotation.role, joins)

        def edit(root: Root) -> None:
            for keyid in leaving:
                root.revoke_key(keyid, rotation.role)
            if added is not None:
                root.add_key(added, rotation.role)
            root.roles[rotation.role].threshold = threshold

        with self._discarding(added):
            return self._changes.edit_root(edit)

    def _rotate_assignment(self, rotation: Rotation) -> Outcome:
        if rotation.threshold is not None:
            raise CallerError("the assignment role has no threshold: one key's signature is enough")
        state = self._changes.state()
        targets = (state.staged_targets or state.targets).signed.targets
        sha256 = targets[ASSIGNMENT_KEYS_TARGET].hashes["sha256"]
        listed = self._targets.read_assignment_keys(sha256)
        leaving = {self._find(ASSIGNMENT, name, listed) for name in rotation.remove}
        joins = rotation.add
        if joins is None and not leaving:
            joins = NewKey()
        kept = {} if rotation.revoke else {k: v for k, v in listed.items() if k not in leaving}
        if joins is None and not kept:
            raise CallerError("the last assignment key cannot be removed: replace it")
        # A key that stays locked shall fail before there is a new key.
        self._changes.can_list_targets()
        added = None if joins is None else self._keys.add(ASSIGNMENT, joins)
        if added is not None:
            kept[added.keyid] = bytes.fromhex(added.keyval["public"])
        data = codec.encode(AssignmentKeys(keys=kept))
        with self._discarding(added):
            return self._changes.list_targets(self._targets.write({ASSIGNMENT_KEYS_TARGET: data}))

    @contextmanager
    def _discarding(self, added: SSlibKey | None) -> Iterator[None]:
        """Removes a new key again if signing failed, which it does before anything is kept."""
        try:
            yield
        except RepositoryError:
            if added is not None:
                self._keys.discard(added.keyid)
            raise

    def _find(self, role: str, name: str, keyids: Iterable[str]) -> str:
        names = {keyid: self._keys.entry(role, keyid).name for keyid in keyids}
        for keyid, known in names.items():
            if name in (keyid, known):
                return keyid
        raise CallerError(f"{role!r} has no key {name!r}; it has {', '.join(names.values())}")

    def _only_key(self, role: str, keyids: Sequence[str]) -> str:
        if len(keyids) == 1:
            return keyids[0]
        names = ", ".join(self._keys.entry(role, keyid).name for keyid in keyids)
        raise CallerError(f"{role!r} has several keys: say which to replace or remove of {names}")


def _check_threshold(rotation: Rotation, keys: int, threshold: int) -> None:
    if not 1 <= threshold <= keys:
        raise CallerError(
            f"{rotation.role!r} would have {keys} keys and a threshold of {threshold}: the "
            f"threshold must be from 1 to the number of keys"
        )
