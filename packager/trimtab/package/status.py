"""What a signing repository looks like to the people who keep its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from trimtab.package.keys import KeyStore
from trimtab.package.passphrases import is_encrypted
from trimtab.package.public_keys import ASSIGNMENT, assignment_key
from trimtab.package.signing import role_keys, standing
from trimtab.package.staged import State

S = TypeVar("S", Root, Targets)

SOON_DAYS = {"root": 30.0, "targets": 30.0, "snapshot": 7.0, "timestamp": 2.0}
"""When a role expires soon. The host renews snapshot and timestamp with half of their time left,
15 and 3.5 days: less than these is a host that does not."""


class KeyStatus(msgspec.Struct, kw_only=True, frozen=True):
    """One key.

    Attributes:
        name: What people call it.
        keyid: Its id.
        uri: Where its private half is.
        path: Its file as it was looked for; None for a key in a token or a key service.
        here: Whether the file is there; None for a key that is no file.
        encrypted: Whether the file needs a passphrase; None if that cannot be seen.
    """

    name: str
    keyid: str
    uri: str
    path: str | None
    here: bool | None
    encrypted: bool | None


class RoleStatus(msgspec.Struct, kw_only=True, frozen=True):
    """One role. The assignment role has no metadata of its own: no version and no expiry."""

    role: str
    version: int | None
    expires: datetime | None
    threshold: int
    keys: tuple[KeyStatus, ...]


class StagedStatus(msgspec.Struct, kw_only=True, frozen=True):
    """Metadata that waits for signatures.

    Attributes:
        role: `root` or `targets`.
        version: The version that it will be.
        expires: When it expires.
        signed: Names of the keys that have signed.
        missing: Names of the keys that can sign and have not.
        changes: What it would change: TUF targets, keys and thresholds, a line each.
    """

    role: str
    version: int
    expires: datetime
    signed: tuple[str, ...]
    missing: tuple[str, ...]
    changes: tuple[str, ...]


class RepositoryStatus(msgspec.Struct, kw_only=True, frozen=True):
    """The whole repository.

    Attributes:
        roles: Root, targets, snapshot, timestamp and assignment.
        staged: What waits for signatures.
        waiting: What is missing, a line each; empty with `staged` not empty: it is complete, and
            waits for the machine with the online keys.
        unused: Key files of no role, in force or staged: keys that left, or that nobody took.
        counter: The highest assignment counter given out.
    """

    roles: tuple[RoleStatus, ...]
    staged: tuple[StagedStatus, ...]
    waiting: tuple[str, ...]
    unused: tuple[str, ...]
    counter: int

    def expiring(self, now: datetime, days: float | None = None) -> tuple[RoleStatus, ...]:
        """Returns the roles that expire soon, or have.

        Args:
            now: The time, in UTC.
            days: What is soon; None takes `SOON_DAYS`.
        """
        return tuple(
            role
            for role in self.roles
            if role.expires is not None
            and role.expires - now <= timedelta(days=SOON_DAYS[role.role] if days is None else days)
        )


def describe(
    state: State,
    *,
    snapshot: Snapshot,
    timestamp: Timestamp,
    keys: KeyStore,
    assignment_keys: Mapping[str, bytes],
    waiting: Sequence[str],
    counter: int,
) -> RepositoryStatus:
    """Puts a status together; see `RepositoryStatus`.

    Raises:
        RepositoryError: `signers.json` is damaged.
    """
    root = state.root.signed
    roles = [
        RoleStatus(
            role=signed.type,
            version=signed.version,
            expires=signed.expires,
            threshold=root.roles[signed.type].threshold,
            keys=_keys(signed.type, role_keys([root], signed.type), keys),
        )
        for signed in (root, state.targets.signed, snapshot, timestamp)
    ]
    online = {keyid: assignment_key(raw) for keyid, raw in assignment_keys.items()}
    assignment = RoleStatus(
        role=ASSIGNMENT,
        version=None,
        expires=None,
        threshold=1,
        keys=_keys(ASSIGNMENT, online, keys),
    )
    return RepositoryStatus(
        roles=(*roles, assignment),
        staged=_staged(state, keys),
        waiting=tuple(waiting),
        unused=tuple(str(path) for path in _unused(state, (*roles, assignment), keys)),
        counter=counter,
    )


def _unused(state: State, roles: Sequence[RoleStatus], keys: KeyStore) -> list[Path]:
    used = {key.path for role in roles for key in role.keys}
    if state.staged_root is not None:
        staged = state.staged_root.signed
        used |= {
            str(keys.path(keys.entry(name, keyid)))
            for name, role in staged.roles.items()
            for keyid in role.keyids
        }
    return [path for path in keys.files() if str(path) not in used]


def _keys(role: str, public: Mapping[str, Key], keys: KeyStore) -> tuple[KeyStatus, ...]:
    return tuple(_key(role, keyid, keys) for keyid in public)


def _key(role: str, keyid: str, keys: KeyStore) -> KeyStatus:
    entry = keys.entry(role, keyid)
    path = keys.path(entry)
    here = None if path is None else path.is_file()
    encrypted = is_encrypted(path.read_bytes()) if path is not None and here else None
    return KeyStatus(
        name=entry.name,
        keyid=keyid,
        uri=entry.uri,
        path=None if path is None else str(path),
        here=here,
        encrypted=encrypted,
    )


def _staged(state: State, keys: KeyStore) -> tuple[StagedStatus, ...]:
    found = []
    if state.staged_root is not None:
        changes = _root_changes(state.root.signed, state.staged_root.signed, keys)
        found.append(_one_staged(state.staged_root, state, keys, changes))
    if state.staged_targets is not None:
        changes = _targets_changes(state.targets.signed, state.staged_targets.signed)
        found.append(_one_staged(state.staged_targets, state, keys, changes))
    return tuple(found)


def _root_changes(old: Root, new: Root, keys: KeyStore) -> tuple[str, ...]:
    lines = []
    for name, role in new.roles.items():
        before = old.roles[name]
        lines += [
            f"{name}: + {_named(name, k, keys)}" for k in role.keyids if k not in before.keyids
        ]
        lines += [
            f"{name}: - {_named(name, k, keys)}" for k in before.keyids if k not in role.keyids
        ]
        if role.threshold != before.threshold:
            lines.append(f"{name}: {role.threshold} keys must sign, not {before.threshold}")
    return tuple(lines)


def _targets_changes(old: Targets, new: Targets) -> tuple[str, ...]:
    return tuple(
        f"targets: {'~' if name in old.targets else '+'} {name} ({target.hashes['sha256'][:8]})"
        for name, target in new.targets.items()
        if target != old.targets.get(name)
    )


def _named(role: str, keyid: str, keys: KeyStore) -> str:
    """Returns a key's name with the beginning of its id: names are local, ids are signed."""
    return f"{keys.entry(role, keyid).name} ({keyid[:8]})"


def _one_staged(
    metadata: Metadata[S], state: State, keys: KeyStore, changes: tuple[str, ...]
) -> StagedStatus:
    signed: dict[str, None] = {}
    missing: dict[str, None] = {}
    role = metadata.signed.type
    for judge in state.judges:
        result = standing(judge, metadata)
        signed.update(dict.fromkeys(keys.entry(role, keyid).name for keyid in result.signed))
        missing.update(dict.fromkeys(keys.entry(role, keyid).name for keyid in result.unsigned))
    return StagedStatus(
        role=role,
        version=metadata.signed.version,
        expires=metadata.signed.expires,
        signed=tuple(signed),
        missing=tuple(missing),
        changes=changes,
    )
