"""How a device gets its certificate: the token that it is given, its request and the answer.

A token is one line of text that a person can paste or put on a USB stick:

    trimtab1.<base64url of MessagePack || first 4 bytes of its SHA-256>

It carries all that the device must trust: the authority's certificate, so that the device knows
the broker, and the hash of the repository's first root, so that it knows the packages. Whoever
can change a token on its way owns the device; whoever reads it before it is used can take the
device's place, once, and the device then says that its token is used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

import msgspec

from trimtab_agent.errors import IdentityError

PREFIX = "trimtab1."
MAX_REQUEST_BYTES = 8192
"""A signing request for a P-256 key has under 500 bytes as PEM."""

HOST_NAME = "trimtab-host"
"""The name of the host in its certificate; no device may have it."""

_CHECK_BYTES = 4


class Token(msgspec.Struct, kw_only=True, frozen=True, array_like=True):
    """What a device is given to enrol, once.

    Attributes:
        id: Names the token; the user name at the enrolment listener.
        secret: The password there.
        device: The one device that it is for.
        broker: Where the device connects when it is enrolled, as `mqtts://HOST:PORT`.
        enrolment: Where it enrols, as `mqtts://HOST:PORT`.
        ca: The certificate of the authority that signs the broker's and the devices', as DER.
        root_sha256: SHA-256 of the repository's `1.root.json`, 32 bytes.
        expires: UTC, ISO 8601; the host judges it, a device's clock may be wrong.
    """

    id: str
    secret: str
    device: str
    broker: str
    enrolment: str
    ca: bytes
    root_sha256: bytes
    expires: str


class EnrolmentRequest(msgspec.Struct, kw_only=True, frozen=True):
    """A device asks for a certificate, for the first time or the next.

    Attributes:
        csr: Its PKCS #10 signing request (RFC 2986), as PEM.
    """

    csr: str


class EnrolmentAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """The certificate, or why there is none.

    Attributes:
        certificate: As PEM.
        root: The repository's `1.root.json`; at enrolment only.
        refusal: Why there is no certificate, in words for a person.
    """

    certificate: str | None = None
    root: bytes | None = None
    refusal: str | None = None


def encode_token(token: Token) -> str:
    """Returns a token as one line of text."""
    packed = msgspec.msgpack.encode(token)
    checked = packed + hashlib.sha256(packed).digest()[:_CHECK_BYTES]
    return PREFIX + base64.urlsafe_b64encode(checked).decode().rstrip("=")


def decode_token(text: str) -> Token:
    """Reads a token; white space that came in by pasting does not matter.

    Raises:
        IdentityError: It is no token, or not whole.
    """
    joined = "".join(text.split())
    if not joined.startswith(PREFIX):
        raise IdentityError(
            f"this is no enrolment token: it begins with {joined[:12]!r}, not with {PREFIX!r}; "
            f"make one on the host with: trimtab enroll DEVICE"
        )
    body = joined.removeprefix(PREFIX)
    try:
        checked = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        packed, check = checked[:-_CHECK_BYTES], checked[-_CHECK_BYTES:]
        if hashlib.sha256(packed).digest()[:_CHECK_BYTES] != check:
            raise binascii.Error("its checksum does not match")
        return msgspec.msgpack.decode(packed, type=Token)
    except (ValueError, msgspec.DecodeError) as error:
        raise IdentityError(
            f"the enrolment token is damaged or not whole ({len(joined)} characters): {error}; "
            f"copy it again, all of it"
        ) from error
