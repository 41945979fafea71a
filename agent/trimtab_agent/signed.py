"""Messages to one device that are signed by an online key: assignments and commands.

They are no TUF metadata: whoever may sign them is listed in a TUF target, so the offline targets
key decides which keys those are (docs/decisions/0004).
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import AssignmentKeys, Signed
from trimtab_agent.errors import ExpiredError, TrustError


class _Address(msgspec.Struct, frozen=True):
    """What every signed message says of itself, whatever else it says."""

    device: str
    expires: str


def verify_signed(
    message: bytes, keys: AssignmentKeys, *, what: str, context: bytes, device: str, now: datetime
) -> bytes:
    """Returns the payload of a signed message. Its counter is the caller's to compare.

    Args:
        message: A `Signed` in JSON.
        keys: Who may sign. One good signature is enough.
        what: What the messages of errors call it, such as `"the assignment"`.
        context: What was put before the payload when it was signed.
        device: The device that this is.
        now: The time, with its zone.

    Raises:
        FormatError: The message or its payload cannot be read.
        TrustError: No listed key signed it for this purpose, or it is for another device.
        ExpiredError: It has expired.
    """
    signed = codec.decode(message, Signed, what=what)
    if not any(
        _is_signed_by(keys.keys.get(entry.keyid), entry.signature, context + signed.payload)
        for entry in signed.signatures
    ):
        raise TrustError(f"{what} has no good signature by a key the repository lists")
    address = codec.decode(signed.payload, _Address, what=f"{what}'s payload")
    if address.device != device:
        raise TrustError(f"{what} is for {address.device!r}; this is {device!r}")
    try:
        expired = now >= msgspec.convert(address.expires, datetime)
    except (msgspec.ValidationError, TypeError) as error:  # TypeError: it names no time zone
        raise TrustError(f"{what}'s expiry {address.expires!r} is no time") from error
    if expired:
        raise ExpiredError(
            f"{what} expired at {address.expires}; the clock here says "
            f"{now.isoformat(timespec='seconds')}"
        )
    return signed.payload


def _is_signed_by(raw_key: bytes | None, signature: bytes, data: bytes) -> bool:
    """Says whether an Ed25519 signature over `data` is good."""
    if raw_key is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(raw_key).verify(signature, data)
    except (InvalidSignature, ValueError):  # ValueError: a key of the wrong length
        return False
    return True
