"""The device's key, its signing request, and checks of the certificate that comes back.

Loads cryptography, so it runs in short-lived processes only: `trimtab-agent enroll`, and
`identity_child` for a renewal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trimtab_agent.errors import IdentityError
from trimtab_agent.identity import CA, CERTIFICATE, KEY, Identity, NextSet

RENEW_AFTER = 2 / 3
"""Of the lifetime: the rest is for devices that are switched off for weeks."""


@dataclass(frozen=True)
class Lifetime:
    """From when to when a certificate is valid, both in UTC."""

    begins: datetime
    ends: datetime

    def is_due(self, now: datetime) -> bool:
        """Says whether it is time for the next certificate."""
        return now >= self.begins + RENEW_AFTER * (self.ends - self.begins)


def signing_request(files: NextSet, device: str) -> str:
    """Returns a request for a certificate, as PEM; a key is made if the set has none yet.

    A request that was interrupted is repeated with the same key: the host then gives the
    certificate that it may have signed already.

    Raises:
        StorageError: The key cannot be written.
        IdentityError: The key that is there cannot be read.
    """
    pem = files.read(KEY)
    if pem is None:
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        files.write(KEY, pem)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    return (
        request.sign(_key(files, pem), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


def accept_certificate(files: NextSet, certificate: str, ca: bytes, device: str) -> Lifetime:
    """Completes a set with the certificate that the host sent, if it is the one asked for.

    Args:
        files: The set, with its key.
        certificate: As PEM.
        ca: The authority's certificate, as PEM.
        device: Whom it must name.

    Raises:
        IdentityError: It is no certificate, not of this authority, for another device or key.
        StorageError: It cannot be written.
    """
    key = _key(files, files.read(KEY) or b"")
    try:
        got = x509.load_pem_x509_certificate(certificate.encode())
        got.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
        public = got.public_key()
    except (ValueError, TypeError, InvalidSignature, x509.InvalidVersion) as error:
        raise IdentityError(
            f"the certificate that came is not signed by the authority in the token: {error}"
        ) from error
    names = [str(name.value) for name in got.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [device]:
        raise IdentityError(f"the certificate that came is for {names}, not for {device!r}")
    if public != key.public_key():
        raise IdentityError("the certificate that came belongs to another key than this device's")
    files.write(CERTIFICATE, certificate.encode())
    return _lifetime(got)


def present_lifetime(identity: Identity) -> Lifetime:
    """Returns from when to when the present certificate is valid.

    Raises:
        IdentityError: There is none, or it cannot be read.
    """
    try:
        return _lifetime(x509.load_pem_x509_certificate((identity.path / CERTIFICATE).read_bytes()))
    except (OSError, ValueError) as error:
        raise IdentityError(f"{identity.path / CERTIFICATE} cannot be read: {error}") from error


def present_ca(identity: Identity) -> bytes:
    """Returns the authority's certificate, as PEM.

    Raises:
        IdentityError: There is none.
    """
    try:
        return (identity.path / CA).read_bytes()
    except OSError as error:
        raise IdentityError(f"{identity.path / CA} cannot be read: {error}") from error


def pem_of(der: bytes) -> bytes:
    """Returns the certificate of a token as PEM.

    Raises:
        IdentityError: It is none.
    """
    try:
        return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    except ValueError as error:
        raise IdentityError(f"the token holds no usable certificate: {error}") from error


def _key(files: NextSet, pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise IdentityError(
            f"{files.path_of(KEY)} is no private key: {error}; remove it and enrol again"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"{files.path_of(KEY)} is no key on P-256; remove it and enrol again")
    return key


def _lifetime(certificate: x509.Certificate) -> Lifetime:
    """Returns the dates of a certificate; cryptography before 42 has only naive ones."""
    if hasattr(certificate, "not_valid_before_utc"):
        return Lifetime(certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    utc = timezone.utc
    return Lifetime(
        certificate.not_valid_before.replace(tzinfo=utc),
        certificate.not_valid_after.replace(tzinfo=utc),
    )
