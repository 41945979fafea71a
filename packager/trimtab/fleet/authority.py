"""The workspace's own certificate authority: who is the broker, the host and each device.

    <workspace>/identity/
      ca.pem, ca.key            the authority, for 20 years: devices know it from their token
      server.pem, server.key    the broker's, renewed by itself
      host.pem, host.key        the host's as a client, renewed by itself

Keys are ECDSA on P-256, which every TLS 1.3 library and hardware key store has (RFC 8446, section
9.1). Certificates follow RFC 5280, with the extensions that Python 3.13's strict checks ask for.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from trimtab.errors import RepositoryError
from trimtab.fleet.x509_parts import (
    BACKDATED,
    ServerNames,
    general_names,
    key_identifier,
    key_usage,
    named,
    names_of,
    private_key,
    self_signed,
    to_pem,
    unsigned,
)
from trimtab.package.files import write_atomically
from trimtab_agent.contract.enrolment import HOST_NAME
from trimtab_agent.durable import storage_errors
from trimtab_agent.tls import TlsFiles

OWN_LIFETIME = timedelta(days=365)
DEVICE_LIFETIME = timedelta(days=365)
"""Renewed after two thirds: a device may be switched off for four months and still come back."""

_RENEW_BEFORE = OWN_LIFETIME / 3
_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER = ExtendedKeyUsageOID.SERVER_AUTH


class Authority:
    """Signs certificates. `open` makes it where there is none yet.

    Args:
        path: The directory of all its files.
        key: Its private key.
        certificate: Its own certificate.
    """

    def __init__(
        self, path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        self.path = path
        self._key = key
        self.certificate = certificate

    @classmethod
    def open(cls, path: Path) -> Authority:
        """Opens the authority in `path`, or makes a new one.

        Raises:
            RepositoryError: Its files are damaged, or the key is not here.
            StorageError: The disk refuses.
        """
        path = path.resolve()  # Mosquitto takes absolute paths only
        with storage_errors(f"making {path}"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (path / "ca.pem").exists() and not (path / "ca.key").exists():
            raise RepositoryError(
                f"{path / 'ca.key'} is missing: signing certificates needs it; bring it back"
            )
        key = private_key(path / "ca.key")
        if not (path / "ca.pem").exists():
            write_atomically(path / "ca.pem", to_pem(self_signed(key)))
        try:
            certificate = x509.load_pem_x509_certificate((path / "ca.pem").read_bytes())
        except (OSError, ValueError) as error:
            raise RepositoryError(f"{path / 'ca.pem'} cannot be read: {error}") from error
        if certificate.public_key() != key.public_key():
            raise RepositoryError(f"{path / 'ca.pem'} and ca.key do not belong together")
        return cls(path, key, certificate)

    def issue_for_device(
        self, device: str, public_key: ec.EllipticCurvePublicKey, now: datetime
    ) -> x509.Certificate:
        """Returns a client certificate that names a device."""
        return self._issue(device, public_key, now, DEVICE_LIFETIME, _CLIENT)

    def host_files(self, now: datetime) -> TlsFiles:
        """Returns the host's own client certificate, made or renewed if it is due.

        Raises:
            RepositoryError: Its key is damaged.
            StorageError: The disk refuses.
        """
        self._renew("host", now, HOST_NAME, _CLIENT, ())
        return TlsFiles(self.path / "ca.pem", self.path / "host.pem", self.path / "host.key")

    def server_files(self, names: ServerNames, now: datetime) -> tuple[TlsFiles, bool]:
        """Returns the broker's certificate, and whether it was made anew just now.

        Args:
            names: What it must be valid for; other names than before make a new one.
            now: UTC.

        Raises:
            RepositoryError: Its key is damaged.
            StorageError: The disk refuses.
        """
        renewed = self._renew("server", now, "trimtab-broker", _SERVER, names)
        files = TlsFiles(self.path / "ca.pem", self.path / "server.pem", self.path / "server.key")
        return files, renewed

    def revocation_list(self, revoked: Iterable[tuple[int, datetime]], now: datetime) -> bytes:
        """Returns the certificates that are no longer valid (RFC 5280, section 5), as PEM.

        Args:
            revoked: Serial number and time of revocation of each.
            now: UTC.

        The list never expires before the authority does: it is read by the broker beside it, and
        OpenSSL refuses every client when a list has expired.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BACKDATED)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(key_identifier(self._key), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for serial, when in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def _renew(
        self,
        name: str,
        now: datetime,
        common_name: str,
        usage: ObjectIdentifier,
        names: ServerNames,
    ) -> bool:
        """Makes `<name>.pem` and `<name>.key` if they are missing, due, or not what they should be.

        Returns:
            Whether the certificate was made.
        """
        key = private_key(self.path / f"{name}.key")
        path = self.path / f"{name}.pem"
        if self._still_serves(path, key, now, names):
            return False
        made = self._issue(common_name, key.public_key(), now, OWN_LIFETIME, usage, names=names)
        write_atomically(path, to_pem(made))
        return True

    def _still_serves(
        self, path: Path, key: ec.EllipticCurvePrivateKey, now: datetime, names: ServerNames
    ) -> bool:
        try:
            present = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError):
            return False
        return (
            present.issuer == self.certificate.subject
            and present.public_key() == key.public_key()
            and present.not_valid_before_utc <= now < present.not_valid_after_utc - _RENEW_BEFORE
            and names_of(present) == general_names(names)
        )

    def _issue(
        self,
        common_name: str,
        public_key: ec.EllipticCurvePublicKey,
        now: datetime,
        lifetime: timedelta,
        usage: ObjectIdentifier,
        *,
        names: ServerNames = (),
    ) -> x509.Certificate:
        builder = (
            unsigned(named(common_name), public_key, now, lifetime)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(key_identifier(self._key), critical=False)
        )
        if names:
            alternatives = x509.SubjectAlternativeName(general_names(names))
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256())
