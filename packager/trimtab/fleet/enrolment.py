"""Certificates for devices: from a token the first time, from the present certificate later on.

The broker has checked who asks before a request arrives here: a token's secret lets a client
write to that token's topic only, a certificate to that device's. What is left to check is the
token's state and the request itself.

A request may come twice, when either side was killed or an answer was lost. The certificate is
stored before it is sent, so the same key gets the same certificate again; another key gets none.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trimtab.fleet.access import hash_password
from trimtab.fleet.authority import Authority
from trimtab.fleet.registry import CertificateRecord, Registry, TokenRecord
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.enrolment import (
    HOST_NAME,
    MAX_REQUEST_BYTES,
    EnrolmentAnswer,
    EnrolmentRequest,
    Token,
)
from trimtab_agent.errors import CallerError, FormatError, IdentityError, NetworkError
from trimtab_agent.link import Link

_log = logging.getLogger(__name__)

LONGEST_TOKEN = timedelta(days=30)

_UNREADABLE = (
    FormatError,
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.InvalidVersion,
)
"""What cryptography raises over a request that is none, found by fuzzing it."""


class Enrolment:
    """Gives tokens and certificates.

    Args:
        authority: Signs.
        registry: Remembers.
        root: The repository's `1.root.json`, which goes with the first certificate.
        now: The time, UTC; replaced in tests.
    """

    def __init__(
        self,
        authority: Authority,
        registry: Registry,
        root: bytes,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._authority = authority
        self._registry = registry
        self._root = root
        self._now = now

    def new_token(
        self, device: str, valid: timedelta, *, broker: str, enrolment: str
    ) -> tuple[Token, int]:
        """Returns a new token for a device, and the revision that makes it known.

        Args:
            device: The device.
            valid: How long it can be used.
            broker: Where the device connects later, as `mqtts://HOST:PORT`.
            enrolment: Where it enrols.

        Raises:
            CallerError: The device's id cannot be used, or `valid` is too short or too long.
            StorageError: It cannot be stored.
        """
        check_device_name(device)
        if not timedelta(0) < valid <= LONGEST_TOKEN:
            raise CallerError(f"a token is valid for up to {LONGEST_TOKEN.days} days, got {valid}")
        now = self._now()
        secret = secrets.token_urlsafe(24)
        record = TokenRecord(
            id=f"t{secrets.token_hex(8)}",
            device=device,
            password=hash_password(secret),
            expires=now + valid,
        )
        revision = self._registry.add_token(record, now)
        token = Token(
            id=record.id,
            secret=secret,
            device=device,
            broker=broker,
            enrolment=enrolment,
            ca=self._authority.certificate.public_bytes(serialization.Encoding.DER),
            root_sha256=hashlib.sha256(self._root).digest(),
            expires=record.expires.isoformat(timespec="seconds"),
        )
        return token, revision

    def enrol(self, token_id: str, request: bytes) -> EnrolmentAnswer:
        """Answers a request that came with a token.

        Raises:
            StorageError: The register cannot be read or written; nothing was given out.
        """
        try:
            token = self._usable(token_id)
            key = checked_key(request, token.device)
            self._bind(token, key)
            certificate = self._certificate(token.device, key)
        except IdentityError as error:
            return EnrolmentAnswer(refusal=str(error))
        return EnrolmentAnswer(certificate=certificate, root=self._root)

    def renew(self, device: str, request: bytes) -> EnrolmentAnswer:
        """Answers a request that came with the device's certificate.

        Raises:
            StorageError: The register cannot be read or written; nothing was given out.
        """
        try:
            key = checked_key(request, device)
            self._check_due(device, key)
            certificate = self._certificate(device, key)
        except IdentityError as error:
            return EnrolmentAnswer(refusal=str(error))
        return EnrolmentAnswer(certificate=certificate)

    def _check_due(self, device: str, key: ec.EllipticCurvePublicKey) -> None:
        """Refuses what nobody needs, so that a device cannot fill the register.

        Raises:
            IdentityError: There is nothing to renew, or it is far too early.
        """
        present = self._valid_certificates(device)
        if not present:  # it could ask, so it was revoked a moment ago
            raise IdentityError(f"{device} has no certificate in force; it needs a new token")
        newest = present[-1]
        half_life = newest.issued + (newest.expires - newest.issued) / 2
        if self._now() < half_life and newest.key_sha256 != key_sha256(key):
            raise IdentityError(
                f"{device} has a certificate until {newest.expires:%Y-%m-%d}, and can renew it "
                f"from {half_life:%Y-%m-%d} on; if its key is lost, it needs a new token"
            )

    def _usable(self, token_id: str) -> TokenRecord:
        token = self._registry.token(token_id)
        if token is None:
            raise IdentityError(f"token {token_id} is unknown here")
        if token.expires <= self._now():
            raise IdentityError(
                f"token {token_id} has expired at {token.expires:%Y-%m-%d %H:%M} UTC; "
                f"make a new one with: trimtab enroll {token.device}"
            )
        return token

    def _bind(self, token: TokenRecord, key: ec.EllipticCurvePublicKey) -> None:
        """Gives a token to the first key that uses it, before that key gets anything."""
        if not self._registry.bind_token(token.id, key_sha256(key)):
            raise IdentityError(
                f"token {token.id} was used by another key; if that was not this device, revoke "
                f"it at once: trimtab enroll --revoke {token.device}"
            )

    def _certificate(self, device: str, key: ec.EllipticCurvePublicKey) -> str:
        """Returns the certificate that this key has, or a new one, stored first."""
        of_key = key_sha256(key)
        for present in self._valid_certificates(device):
            if present.key_sha256 == of_key:
                return present.pem
        now = self._now()
        made = self._authority.issue_for_device(device, key, now)
        record = CertificateRecord(
            serial=made.serial_number,
            device=device,
            key_sha256=of_key,
            pem=made.public_bytes(serialization.Encoding.PEM).decode(),
            issued=now,
            expires=made.not_valid_after_utc,
        )
        self._registry.add_certificate(record)
        _log.info("gave %s a certificate until %s", device, record.expires)
        return record.pem

    def _valid_certificates(self, device: str) -> list[CertificateRecord]:
        now = self._now()
        found = self._registry.certificates(device)
        return [one for one in found if one.revoked is None and one.expires > now]


def check_device_name(device: str) -> str:
    """Returns `device` if a certificate may name it.

    Raises:
        CallerError: It cannot be a device id, or is the host's own name.
    """
    if topics.check_device_id(device) == HOST_NAME:
        raise CallerError(f"device id {device!r} is the host's own name: take another")
    return device


def checked_key(request: bytes, device: str) -> ec.EllipticCurvePublicKey:
    """Returns the public key of a signing request, if the request is in order.

    Raises:
        IdentityError: It is none, is not signed by its own key, is for another device, or its
            key is not on P-256.
    """
    if len(request) > MAX_REQUEST_BYTES:
        raise IdentityError(
            f"the signing request has {len(request)} bytes; at most {MAX_REQUEST_BYTES} are read"
        )
    try:
        pem = codec.decode(request, EnrolmentRequest, what="it").csr.encode()
        csr = x509.load_pem_x509_csr(pem)
        signed, key = csr.is_signature_valid, csr.public_key()
        names = csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except _UNREADABLE as error:
        raise IdentityError(f"the signing request cannot be read: {error}") from error
    if not signed:
        raise IdentityError("the signing request is not signed by the key that it names")
    if [name.value for name in names] != [device]:
        found = ", ".join(repr(name.value) for name in names) or "nobody"
        raise IdentityError(f"the signing request is for {found}, not for {device!r}")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(
            f"the signing request has a key of the kind {type(key).__name__}; "
            f"only ECDSA on P-256 is taken"
        )
    return key


def key_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """Returns the SHA-256 of a public key, as SubjectPublicKeyInfo, in hexadecimal."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def serve_enrolment(link: Link, enrolment: Enrolment) -> None:
    """Answers requests that come over a link, for as long as it is open."""

    def on_request(topic: str, payload: bytes, _properties: dict[str, str]) -> None:
        token_id = topic.split("/")[-2]
        send(topics.enrolment_answer(token_id), enrolment.enrol(token_id, payload))

    def on_renewal(topic: str, payload: bytes, _properties: dict[str, str]) -> None:
        device = topics.device_of(topic)
        send(topics.certificate(device), enrolment.renew(device, payload))

    def send(topic: str, answer: EnrolmentAnswer) -> None:
        if answer.refusal is not None:
            _log.warning("refused a certificate: %s", answer.refusal)
        try:
            link.publish(topic, codec.encode(answer))
        except NetworkError as error:  # the device asks again, and gets the same
            _log.warning("%s", error)

    link.subscribe(topics.ALL_ENROLMENTS, on_request)
    link.subscribe(topics.ALL_RENEWALS, on_renewal)
