"""A want-list: the chunks that a device asks the host for, and what says that the host has none.

    payload     1 to 64 SHA-256 digests, 32 raw bytes each, joined; no digest twice
    properties  MQTT 5 response topic: the device's own block topic
                MQTT 5 correlation data: 8 bytes that the device drew at random

The host answers with one message a chunk: its bytes as the payload, and the same correlation data.
For a chunk that it lacks, the payload is empty and the user property `missing` holds the digest in
lower-case hexadecimal. Answers may come in any order and more than once. Who asks believes none of
it: a chunk is what has the right hash.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab_agent.errors import CallerError, FormatError

MAX_WANTED = 64
"""Digests in one want-list: 2 KiB, which every broker takes."""

DIGEST_BYTES = 32
CORRELATION_BYTES = 8

MISSING = "missing"
"""User property of an empty answer."""

RESPONSE_TOPIC = "response-topic"
CORRELATION = "correlation-data"
"""Under these keys a link hands over the two MQTT 5 properties that are no user properties: the
topic as it came, the data in lower-case hexadecimal."""


def encode_want(digests: Sequence[str]) -> bytes:
    """Returns the payload of a want-list.

    Args:
        digests: 1 to 64 distinct SHA-256 in hexadecimal.

    Raises:
        CallerError: They are none, too many, or not distinct, or one is no SHA-256.
    """
    try:
        raw = [bytes.fromhex(digest) for digest in digests]
    except ValueError as error:
        raise CallerError(f"a want-list takes SHA-256 in hexadecimal: {error}") from error
    if not 1 <= len(raw) <= MAX_WANTED or len(set(raw)) != len(raw):
        raise CallerError(
            f"a want-list takes 1 to {MAX_WANTED} distinct digests, not {len(raw)} of which "
            f"{len(set(raw))} are distinct"
        )
    if wrong := [digest for digest in raw if len(digest) != DIGEST_BYTES]:
        raise CallerError(f"{wrong[0].hex()!r} is no SHA-256: it has {len(wrong[0])} bytes, not 32")
    return b"".join(raw)


def decode_want(payload: bytes, *, what: str) -> tuple[str, ...]:
    """Returns the digests of a want-list, in lower-case hexadecimal.

    Args:
        payload: As it came.
        what: Where it came from, for the error message.

    Raises:
        FormatError: It is empty, too long, no whole number of digests, or has one twice.
    """
    count, rest = divmod(len(payload), DIGEST_BYTES)
    if rest or not 1 <= count <= MAX_WANTED:
        raise FormatError(
            f"{what}: a want-list has 1 to {MAX_WANTED} digests of {DIGEST_BYTES} bytes, "
            f"this has {len(payload)} bytes"
        )
    found = tuple(
        payload[start : start + DIGEST_BYTES].hex()
        for start in range(0, len(payload), DIGEST_BYTES)
    )
    if len(set(found)) != count:
        raise FormatError(f"{what}: a want-list names a chunk more than once")
    return found
