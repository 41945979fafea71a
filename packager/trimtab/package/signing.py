"""Signatures on TUF metadata: whose are there, whose are missing, and adding them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
    VerificationResult,
)

from trimtab.errors import MissingKeyError
from trimtab.package.keys import KeyStore
from trimtab.package.metadata import Clock, MetadataFiles, encode, expiry

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


def standing(judge: Root, metadata: Metadata[S]) -> VerificationResult:
    """Returns which keys of the role in `judge` have signed `metadata`, and which have not."""
    return judge.get_verification_result(
        metadata.signed.type, metadata.signed_bytes, metadata.signatures
    )


def is_signed(judges: Iterable[Root], metadata: Metadata[S]) -> bool:
    """Says whether each of the roots takes the metadata as sufficiently signed."""
    return all(standing(judge, metadata).verified for judge in judges)


def role_keys(judges: Iterable[Root], role: str) -> dict[str, Key]:
    """Returns the keys of a role in any of the roots, by key id."""
    return {keyid: judge.keys[keyid] for judge in judges for keyid in judge.roles[role].keyids}


def add_signatures(
    metadata: Metadata[S],
    keys: KeyStore,
    candidates: Mapping[str, Key],
    *,
    enough: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Signs with every key that is here.

    Args:
        metadata: What to sign; good signatures that it has stay.
        keys: The private keys.
        candidates: The public keys to sign with, by key id.
        enough: Asked before each key whether to stop.

    Returns:
        Why the others did not sign, a line each.

    Raises:
        RepositoryError: A key is damaged or stays locked.
    """
    problems = []
    role, payload = metadata.signed.type, metadata.signed_bytes
    for keyid, key in candidates.items():
        if enough():
            break
        if _has_signed(key, metadata):
            continue
        try:
            metadata.signatures[keyid] = keys.sign(role, key, payload)
        except MissingKeyError as error:
            problems.append(str(error))
    return problems


def _has_signed(key: Key, metadata: Metadata[S]) -> bool:
    signature = metadata.signatures.get(key.keyid)
    if signature is None:
        return False
    try:
        key.verify_signature(signature, metadata.signed_bytes)
    except UnverifiedSignatureError:
        return False
    return True


class OnlineSigner:
    """Makes snapshot and timestamp metadata, which the host signs unattended.

    Args:
        files: The metadata in force.
        keys: The private keys.
        clock: The time in UTC, in whole seconds.
    """

    def __init__(self, files: MetadataFiles, keys: KeyStore, clock: Clock) -> None:
        self._files = files
        self._keys = keys
        self._clock = clock

    def renewed(
        self, root: Root, *, snapshot: bool, targets: tuple[int, bytes] | None = None
    ) -> dict[str, bytes]:
        """Returns the next versions, by file name, in the order in which to write them.

        Args:
            root: Whose keys sign.
            snapshot: Whether there is a new snapshot too, not only a timestamp.
            targets: Version and bytes of the targets metadata that the snapshot lists from now
                on; None keeps the one before.

        Raises:
            MissingKeyError: A key that is needed is not here.
            RepositoryError: A key or a file is damaged.
        """
        written: dict[str, bytes] = {}
        timestamp = self._files.timestamp().signed
        if snapshot:
            listed = self._files.snapshot().signed
            listed.version += 1
            if targets is not None:
                listed.meta["targets.json"] = metafile(*targets)
            data = self.sign(root, listed)
            written[f"{listed.version}.snapshot.json"] = data
            timestamp.snapshot_meta = metafile(listed.version, data)
        timestamp.version += 1
        written["timestamp.json"] = self.sign(root, timestamp)
        return written

    def sign(self, root: Root, signed: S) -> bytes:
        """Returns metadata of an online role with a fresh expiry and signatures.

        Raises:
            MissingKeyError: A key that is needed is not here.
            RepositoryError: A key is damaged.
        """
        signed.expires = expiry(signed.type, self._clock)
        metadata = Metadata[S](signed)
        problems = add_signatures(
            metadata,
            self._keys,
            role_keys([root], signed.type),
            enough=lambda: is_signed([root], metadata),
        )
        if not is_signed([root], metadata):
            raise MissingKeyError("; ".join(problems))
        return encode(metadata)


def metafile(version: int, data: bytes) -> MetaFile:
    """Returns how one metadata file names another: version, length and hash."""
    return MetaFile.from_data(version, data, ["sha256"])
