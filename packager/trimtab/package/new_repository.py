"""The first state of a repository: its keys, and version 1 of all metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from trimtab.package.files import write_atomically
from trimtab.package.keys import TUF_ROLES, KeySources, KeyStore, NewKey
from trimtab.package.metadata import Clock, S, encode, expiry
from trimtab.package.public_keys import ASSIGNMENT
from trimtab.package.signing import add_signatures, metafile, role_keys
from trimtab.package.target_files import TargetFiles
from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import ASSIGNMENT_KEYS_TARGET, AssignmentKeys
from trimtab_agent.errors import CallerError


@dataclass(frozen=True, kw_only=True)
class KeyPlan:
    """How many offline keys a repository starts with, and how many of them must sign.

    Raises:
        CallerError: A threshold is not from 1 to the number of keys.
    """

    root_keys: int = 1
    root_threshold: int = 1
    targets_keys: int = 1
    targets_threshold: int = 1

    def __post_init__(self) -> None:
        for role in ("root", "targets"):
            keys, threshold = self.of(role)
            if not 1 <= threshold <= keys:
                raise CallerError(
                    f"{role}: {threshold} signatures of {keys} keys: the threshold must be from "
                    f"1 to the number of keys"
                )

    def of(self, role: str) -> tuple[int, int]:
        """Returns the number of keys and the threshold of a role."""
        if role == "root":
            return self.root_keys, self.root_threshold
        if role == "targets":
            return self.targets_keys, self.targets_threshold
        return 1, 1


def fill(directory: Path, plan: KeyPlan, sources: KeySources, clock: Clock) -> None:
    """Makes keys and metadata in an empty directory.

    Raises:
        CallerError: A key file of one of the names exists.
        StorageError: A file cannot be written.
    """
    metadata, contents = directory / "metadata", directory / "targets"
    for folder in (metadata, contents):
        folder.mkdir()
    (directory / "keys").mkdir(mode=0o700)
    keys = KeyStore(directory / "keys", sources)
    root = _make_root(keys, plan, clock)
    online = keys.add(ASSIGNMENT, NewKey(name=ASSIGNMENT))
    allowed = AssignmentKeys(keys={online.keyid: bytes.fromhex(online.keyval["public"])})
    listed = TargetFiles(contents).write({ASSIGNMENT_KEYS_TARGET: codec.encode(allowed)})

    def write(name: str, signed: S) -> bytes:
        signed.expires = expiry(signed.type, clock)
        signing = Metadata(signed)
        add_signatures(signing, keys, role_keys([root], signed.type))
        data = encode(signing)
        write_atomically(metadata / name, data)
        return data

    write("1.root.json", root)
    targets = metafile(1, write("1.targets.json", Targets(targets=listed)))
    snapshot = write("1.snapshot.json", Snapshot(meta={"targets.json": targets}))
    write("timestamp.json", Timestamp(snapshot_meta=metafile(1, snapshot)))


def _make_root(keys: KeyStore, plan: KeyPlan, clock: Clock) -> Root:
    root = Root(consistent_snapshot=True, expires=expiry("root", clock))
    for role in TUF_ROLES:
        count, threshold = plan.of(role)
        for key in _make_keys(keys, role, count):
            root.add_key(key, role)
        root.roles[role].threshold = threshold
    return root


def _make_keys(keys: KeyStore, role: str, count: int) -> list[SSlibKey]:
    """Makes `<role>`, or `<role>-1`, `<role>-2` and so on."""
    names = [role] if count == 1 else [f"{role}-{n}" for n in range(1, count + 1)]
    return [keys.add(role, NewKey(name=name)) for name in names]
