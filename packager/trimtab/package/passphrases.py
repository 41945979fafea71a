"""Passphrases of key files: asked for once a run, and remembered for the run only."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from trimtab.errors import RepositoryError

PASSPHRASE_VARIABLE = "TRIMTAB_PASSPHRASE"  # noqa: S105 (a name, no secret)
"""Environment variable that holds the passphrase where no person can be asked."""

_HOW = f"give --passphrase-file or {PASSPHRASE_VARIABLE}, or run the command on a terminal"


class Prompt(Protocol):
    """A person at a terminal."""

    def ask(self, what: str) -> str:
        """Returns a secret that exists already; `what` names it."""

    def choose(self) -> str:
        """Returns a passphrase for new keys, typed twice; empty for none."""


class Passphrases:
    """What opens the encrypted keys of one run.

    Args:
        given: The passphrase, if it was given without asking.
        prompt: Whom to ask; None where there is no terminal. It is not asked if `given` is there.
    """

    def __init__(self, given: str | None = None, prompt: Prompt | None = None) -> None:
        self._given = given is not None
        self._known = [] if given is None else [given]
        self._prompt = None if self._given else prompt
        self._chosen = given
        self._unlocked: dict[bytes, PrivateKeyTypes] = {}

    def unlock(self, path: Path, pem: bytes) -> PrivateKeyTypes:
        """Returns the private key in a PEM file.

        Args:
            path: Where the file is, for messages.
            pem: Its content, PKCS #8.

        Raises:
            RepositoryError: It is no key, or no passphrase that opens it could be had.
        """
        if not is_encrypted(pem):
            return _load(path, pem, None)
        if pem not in self._unlocked:
            self._unlocked[pem] = self._decrypt(path, pem)
        return self._unlocked[pem]

    def remember(self, pem: bytes, key: PrivateKeyTypes) -> None:
        """Takes note of what a key file of this run holds, so that it need not be decrypted."""
        self._unlocked[pem] = key

    def secret(self, what: str) -> str:
        """Returns another secret, such as a token's PIN.

        Raises:
            RepositoryError: Nobody can be asked.
        """
        if self._prompt is not None:
            return self._prompt.ask(what)
        if not self._known:
            raise RepositoryError(f"the {what} is needed: {_HOW}")
        return self._known[0]

    def for_new_keys(self) -> str | None:
        """Returns the passphrase to encrypt new keys with; None leaves them unencrypted."""
        if self._chosen is None and self._prompt is not None:
            self._chosen = self._prompt.choose()
            if self._chosen:
                self._known.append(self._chosen)
        return self._chosen or None

    def _decrypt(self, path: Path, pem: bytes) -> PrivateKeyTypes:
        for known in self._known:
            try:
                return _load(path, pem, known)
            except RepositoryError:
                continue
        if self._given:
            raise RepositoryError(
                f"the passphrase given does not open {path}: it is wrong, or the file is damaged"
            )
        if self._prompt is None:
            raise RepositoryError(f"{path} is encrypted and its passphrase is needed: {_HOW}")
        typed = self._prompt.ask(f"passphrase of {path}")
        key = _load(path, pem, typed)
        self._known.append(typed)
        return key


def is_encrypted(pem: bytes) -> bool:
    """Says whether a PKCS #8 file in PEM needs a passphrase (RFC 7468, section 11)."""
    return pem.lstrip().startswith(b"-----BEGIN ENCRYPTED")


def _load(path: Path, pem: bytes, passphrase: str | None) -> PrivateKeyTypes:
    password = None if passphrase is None else passphrase.encode()
    try:
        return load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if passphrase is None:
            raise RepositoryError(f"{path} cannot be read as a private key: {error}") from error
        raise RepositoryError(
            f"wrong passphrase for {path}, or the file is damaged; nothing was changed"
        ) from error
