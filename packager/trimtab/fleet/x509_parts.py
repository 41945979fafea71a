"""Parts of X.509 certificates (RFC 5280), as `authority` puts them together."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trimtab.errors import RepositoryError
from trimtab.package.files import write_atomically

CA_LIFETIME = timedelta(days=20 * 365)

BACKDATED = timedelta(days=1)
"""Devices judge the broker's certificate by their own clock, which may be somewhat slow."""

ServerNames = Sequence[str]
"""Host names and addresses by which devices know the broker."""


def self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Returns the certificate of a new authority."""
    # A name of its own, so that the authorities of two workspaces are not taken for each other.
    now = datetime.now(timezone.utc)
    name = named(f"Trimtab {x509.random_serial_number() & 0xFFFFFFFF:08x}")
    return (
        unsigned(name, key.public_key(), now, CA_LIFETIME)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def unsigned(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    """Returns what all certificates have, to be completed with issuer and extensions."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    """Returns the uses of a key; what is not named is not allowed."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def key_identifier(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    """Returns the extension that says whose signature a certificate has."""
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def named(common_name: str) -> x509.Name:
    """Returns a subject or issuer of one common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def general_names(names: ServerNames) -> list[x509.GeneralName]:
    """Returns names and addresses as a certificate lists them."""
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """Returns the names and addresses that a certificate lists."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(extension.value)


def to_pem(certificate: x509.Certificate) -> bytes:
    """Returns a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Reads a private key, or makes one where there is none.

    Raises:
        RepositoryError: It is damaged, or of another kind.
        StorageError: The disk refuses.
    """
    if not path.exists():
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_atomically(path, pem, mode=0o600)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise RepositoryError(f"{path} cannot be read as a private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RepositoryError(f"{path} is no key on P-256 but a {type(key).__name__}")
    return key
