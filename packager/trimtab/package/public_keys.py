"""Public keys: their ids, and reading them from files."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import SSlibKey

from trimtab_agent.errors import CallerError

ASSIGNMENT = "assignment"
"""The role that signs what a device should run. It is no role of TUF."""


def public_key_of(role: str, key: PublicKeyTypes) -> SSlibKey:
    """Returns a public key with the id that devices know it by.

    TUF's ids are securesystemslib's; an assignment key's is the SHA-256 of its 32 raw bytes.

    Raises:
        CallerError: The kind of key cannot be used, or not for this role.
    """
    if role == ASSIGNMENT:
        if not isinstance(key, Ed25519PublicKey):
            raise CallerError(
                f"an assignment key must be an Ed25519 key, not a {type(key).__name__}: the agent "
                "verifies no other"
            )
        return assignment_key(key.public_bytes_raw())
    try:
        return SSlibKey.from_crypto(key)
    except ValueError as error:
        raise CallerError(f"a {type(key).__name__} cannot sign for {role!r}: {error}") from error


def assignment_key(raw: bytes) -> SSlibKey:
    """Returns the assignment key with the given 32 raw bytes."""
    keyid = hashlib.sha256(raw).hexdigest()
    return SSlibKey(keyid, "ed25519", "ed25519", {"public": raw.hex()})


def read_public_key(role: str, pem: bytes) -> SSlibKey:
    """Returns the public key in a PEM file (SubjectPublicKeyInfo).

    Raises:
        CallerError: It is none, or its kind cannot be used for this role.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CallerError(f"the public key cannot be read as PEM: {error}") from error
    return public_key_of(role, key)
