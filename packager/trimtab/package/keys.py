"""The private keys of a signing repository: made, found and used.

A key is known by its key id. `signers.json` says where its private half is: `file:NAME.pem` for a
PKCS #8 file in a folder of keys, or a URI of securesystemslib for a token or a key service
(`hsm:`, `gcpkms:`, ...). A key that is not listed there is the only one of its role, in
`<role>.pem`. docs/keys.md says which keys belong on a machine that is offline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.exceptions import UnsupportedLibraryError, UnverifiedSignatureError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Key,
    Signature,
    Signer,
    SSlibKey,
)

from trimtab.errors import MissingKeyError, RepositoryError
from trimtab.package.files import write_atomically
from trimtab.package.passphrases import Passphrases
from trimtab.package.pkcs8 import to_pem
from trimtab.package.public_keys import ASSIGNMENT, public_key_of, read_public_key
from trimtab.package.signers import FILE_SCHEME, KeyEntry, SignersFile
from trimtab_agent.errors import CallerError

TUF_ROLES = ("root", "targets", "snapshot", "timestamp")
"""The roles of the TUF specification, section 2.1."""

OFFLINE_ROLES = ("root", "targets")
"""The roles whose keys are encrypted when there is a passphrase; the others sign unattended."""

ROLES = (*TUF_ROLES, ASSIGNMENT)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class KeySources:
    """What a run may use besides the repository's own folder of keys.

    Attributes:
        folder: Another folder with key files, such as a USB stick. New offline keys go there.
        passphrases: Open the encrypted ones.
    """

    folder: Path | None = None
    passphrases: Passphrases = field(default_factory=Passphrases)


@dataclass(frozen=True)
class NewKey:
    """A key that joins a role.

    Attributes:
        name: What to call it; None takes the next free of `<role>-2`, `<role>-3`.
        uri: Where it is if it exists already; None makes a new one in a file.
        public_key: Its public half in PEM, for a URI that names no file.
    """

    name: str | None = None
    uri: str | None = None
    public_key: bytes | None = None


class KeyStore:
    """The keys of one repository.

    Args:
        directory: Its own folder of keys, with `signers.json`.
        sources: Other places, and passphrases.
    """

    def __init__(self, directory: Path, sources: KeySources) -> None:
        self._directory = directory
        self._sources = sources
        self._signers = SignersFile(directory / "signers.json")

    @property
    def folders(self) -> list[Path]:
        """The folders of key files, the one to look in first at the front."""
        other = self._sources.folder
        return [self._directory] if other is None else [other, self._directory]

    def files(self) -> list[Path]:
        """Returns every key file in the folders."""
        return sorted(path for folder in self.folders for path in folder.glob("*.pem"))

    def entry(self, role: str, keyid: str) -> KeyEntry:
        """Returns where a key is.

        Raises:
            RepositoryError: `signers.json` cannot be read.
        """
        alone = KeyEntry(name=role, role=role, uri=f"{FILE_SCHEME}:{role}.pem")
        return self._signers.read().get(keyid, alone)

    def path(self, entry: KeyEntry) -> Path | None:
        """Returns where a key file is, or would be; None for a key that is in no file of ours."""
        if entry.file is None:
            return None
        places = [folder / entry.file for folder in self.folders]
        return next((place for place in places if place.is_file()), places[-1])

    def add(self, role: str, new: NewKey) -> SSlibKey:
        """Makes a key, or lists one that exists, and returns its public half.

        Raises:
            CallerError: The name is taken or unusable, the URI is of no known kind, or a public
                key is missing or unusable.
            RepositoryError: The file that the URI names cannot be read.
            StorageError: A file cannot be written.
        """
        name = self._free_name(role) if new.name is None else new.name
        self._check_name(name)
        if new.uri is None:
            return self._make(role, name)
        entry = KeyEntry(name=name, role=role, uri=new.uri)
        key = self._public_key(entry, new.public_key)
        listed = self._signers.read().get(key.keyid)
        if listed is not None:
            raise CallerError(f"{new.uri} is the {listed.role} key {listed.name!r} already")
        self._signers.add(key.keyid, entry)
        return key

    def discard(self, keyid: str) -> None:
        """Removes a key that `add` has listed or made just now and that nobody has seen.

        Raises:
            RepositoryError: `signers.json` is damaged.
            StorageError: A file cannot be written.
        """
        entry = self._signers.read().get(keyid)
        if entry is None:
            return
        path = self.path(entry)
        self._signers.remove(keyid)
        if path is not None and entry.uri == f"{FILE_SCHEME}:{entry.name}.pem":
            path.unlink(missing_ok=True)

    def sign(self, role: str, key: Key, payload: bytes) -> Signature:
        """Signs bytes.

        Raises:
            MissingKeyError: The private key is not here, or its token cannot be reached.
            RepositoryError: It is damaged, another one than it should be, or stays locked.
        """
        entry = self.entry(role, key.keyid)
        try:
            signature = self._signer(entry, key).sign(payload)
            key.verify_signature(signature, payload)
        except RepositoryError:
            raise
        except UnverifiedSignatureError as error:
            raise RepositoryError(
                f"what {entry.uri} signs does not fit the public key of {entry.name!r}: {error}"
            ) from error
        except Exception as error:  # a signer of securesystemslib raises what its driver raises
            raise MissingKeyError(_cannot_sign(entry, error)) from error
        return signature

    def _signer(self, entry: KeyEntry, key: Key) -> Signer:
        path = self.path(entry)
        if path is None:
            secret = self._sources.passphrases.secret
            return Signer.from_priv_key_uri(entry.uri, key, secret)
        private = self._read(entry, path)
        if isinstance(key, SSlibKey) and key.keytype == "ed25519":
            _check_ed25519(path, private)
        try:
            return CryptoSigner(private, key if isinstance(key, SSlibKey) else None)
        except ValueError as error:
            raise RepositoryError(
                f"{path} holds another key than the {entry.role} key {entry.name!r}: {error}"
            ) from error

    def _make(self, role: str, name: str) -> SSlibKey:
        offline = role in OFFLINE_ROLES
        passphrase = self._sources.passphrases.for_new_keys() if offline else None
        folder = self.folders[0] if offline else self._directory
        private = Ed25519PrivateKey.generate()
        pem = to_pem(private, passphrase)
        write_atomically(folder / f"{name}.pem", pem, mode=0o600)
        self._sources.passphrases.remember(pem, private)
        key = public_key_of(role, private.public_key())
        if name != role:
            entry = KeyEntry(name=name, role=role, uri=f"{FILE_SCHEME}:{name}.pem")
            self._signers.add(key.keyid, entry)
        return key

    def _public_key(self, entry: KeyEntry, public_key: bytes | None) -> SSlibKey:
        scheme, _, path = entry.uri.partition(":")
        if scheme != FILE_SCHEME and scheme not in SIGNER_FOR_URI_SCHEME:
            known = ", ".join(sorted({FILE_SCHEME, *SIGNER_FOR_URI_SCHEME}))
            raise CallerError(f"{entry.uri!r} is no key URI: its scheme must be one of {known}")
        if public_key is not None:
            return read_public_key(entry.role, public_key)
        if scheme not in (FILE_SCHEME, CryptoSigner.SCHEME):
            raise CallerError(f"{entry.uri}: its public key is needed too: --public-key FILE.pem")
        private = self._read(entry, self.path(entry) or Path(path))
        return public_key_of(entry.role, private.public_key())

    def _read(self, entry: KeyEntry, path: Path) -> PrivateKeyTypes:
        try:
            pem = path.read_bytes()
        except FileNotFoundError as error:
            raise MissingKeyError(
                f"{path} is missing: signing as {entry.role!r} needs it; bring it back from "
                f"where it is kept, or name that folder with --keys"
            ) from error
        except OSError as error:
            raise RepositoryError(f"{path} cannot be read: {error.strerror}") from error
        return self._sources.passphrases.unlock(path, pem)

    def _taken(self) -> set[str]:
        return {path.stem for path in self.files()} | {
            entry.name for entry in self._signers.read().values()
        }

    def _free_name(self, role: str) -> str:
        taken = self._taken()
        return next(name for n in range(2, 10_000) if (name := f"{role}-{n}") not in taken)

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise CallerError(f"{name!r} cannot name a key: take letters, digits, '.', '_' and '-'")
        if name in self._taken():
            raise CallerError(f"there is a key {name!r} already: take another name")


def _check_ed25519(path: Path, private: PrivateKeyTypes) -> None:
    if not isinstance(private, Ed25519PrivateKey):
        kind = type(private).__name__.removesuffix("PrivateKey")
        raise RepositoryError(f"{path} is no Ed25519 key but a {kind}")


def _cannot_sign(entry: KeyEntry, error: Exception) -> str:
    """Says why a token or a key service did not sign, and what would help."""
    message = f"{entry.name!r} ({entry.uri}) cannot sign as {entry.role!r}: {error}"
    if isinstance(error, UnsupportedLibraryError):
        scheme = entry.uri.partition(":")[0]
        extra = "vault" if scheme == "hv" else scheme
        message += f"; install it with: pip install 'securesystemslib[{extra}]'"
    return message
