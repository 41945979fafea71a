"""The private keys of a signing repository: one Ed25519 key per role, in PEM files.

The files are PKCS #8 without a passphrase, readable by their owner only. docs/security.md says
which of them belong on a machine that is switched off.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from trimtab.errors import RepositoryError
from trimtab.package.files import write_atomically
from trimtab_agent.contract.messages import ASSIGNMENT_CONTEXT, Signature

TUF_ROLES = ("root", "targets", "snapshot", "timestamp")
"""The roles of the TUF specification, section 2.1."""

ASSIGNMENT = "assignment"
"""The role that signs what a device should run. It is no role of TUF."""


class KeyStore:
    """The keys in one directory.

    Args:
        directory: Holds `<role>.pem` for each role whose key is on this machine.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def generate(self) -> None:
        """Makes a key for every role.

        Raises:
            StorageError: A key cannot be written.
        """
        self._directory.mkdir(mode=0o700)
        for role in (*TUF_ROLES, ASSIGNMENT):
            pem = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            write_atomically(self._directory / f"{role}.pem", pem, mode=0o600)

    def signer(self, role: str) -> CryptoSigner:
        """Returns what signs TUF metadata for `role`.

        Raises:
            RepositoryError: The key is not here, or is no Ed25519 key.
        """
        return CryptoSigner(self._load(role))

    def assignment_key(self) -> tuple[str, bytes]:
        """Returns key id and raw public key, 32 bytes, of the key that signs assignments.

        Raises:
            RepositoryError: The key is not here, or is no Ed25519 key.
        """
        raw = self._load(ASSIGNMENT).public_key().public_bytes_raw()
        return hashlib.sha256(raw).hexdigest(), raw

    def sign_assignment(self, payload: bytes) -> Signature:
        """Signs the bytes of an assignment.

        Raises:
            RepositoryError: The key is not here, or is no Ed25519 key.
        """
        keyid, _ = self.assignment_key()
        signature = self._load(ASSIGNMENT).sign(ASSIGNMENT_CONTEXT + payload)
        return Signature(keyid=keyid, signature=signature)

    def _load(self, role: str) -> Ed25519PrivateKey:
        path = self._directory / f"{role}.pem"
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError as error:
            raise RepositoryError(
                f"{path} is missing: signing as {role!r} needs it; bring it back from where the "
                f"offline keys are kept"
            ) from error
        except (OSError, ValueError, TypeError) as error:
            raise RepositoryError(f"{path} cannot be read as a private key: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise RepositoryError(f"{path} is no Ed25519 key but a {type(key).__name__}")
        return key
