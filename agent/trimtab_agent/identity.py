"""What enrolment brought to this device, and how one set of files takes the place of another.

    <state_dir>/identity/
      device.key    the private key; made here, never leaves, 0600
      device.pem    the certificate that belongs to it
      ca.pem        the authority that signed it, and the broker's
      1.root.json   the repository's first root: what packages are trusted by
      broker        where the device connects, a line of text
      token         the id of the token that brought all this, without its secret
      enrolling/    the next set while it is incomplete, from `trimtab-agent enroll`
      renewing/     the same from a renewal: the key and the certificate only

A next set is complete when its `device.pem` is there. `settle` then moves its files over the old
ones, `device.pem` last: a power cut in between leaves a complete next set, which the next start
moves again. So key and certificate never stay mismatched.

This module is loaded for as long as the agent runs: the standard library only.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from trimtab_agent.broker_url import BrokerUrl, parse_broker_url
from trimtab_agent.durable import storage_errors, sync_directory
from trimtab_agent.errors import IdentityError
from trimtab_agent.tls import TlsFiles

KEY, CERTIFICATE, CA, ROOT, BROKER = "device.key", "device.pem", "ca.pem", "1.root.json", "broker"
TOKEN = "token"  # noqa: S105 -- a file's name
_IN_ORDER = (KEY, CA, ROOT, BROKER, TOKEN, CERTIFICATE)


class Identity:
    """The identity of the device whose state is in `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "identity"

    @property
    def tls_files(self) -> TlsFiles:
        """What a connection needs; the files may be missing."""
        return TlsFiles(self.path / CA, self.path / CERTIFICATE, self.path / KEY)

    @property
    def root_path(self) -> Path:
        """Where enrolment puts the repository's first root."""
        return self.path / ROOT

    @property
    def broker_url(self) -> BrokerUrl:
        """Where the device connects since it was enrolled.

        Raises:
            IdentityError: It is not enrolled.
        """
        try:
            return parse_broker_url((self.path / BROKER).read_text().strip())
        except OSError as error:
            raise IdentityError(
                f"no broker is configured, and this device is not enrolled ({self.path / BROKER}: "
                f"{error.strerror}): run trimtab-agent enroll --token-file FILE --config FILE, or "
                f"set `broker`"
            ) from error

    @property
    def token_id(self) -> str | None:
        """The id of the token that this device was enrolled with, or None."""
        try:
            return (self.path / TOKEN).read_text().strip()
        except OSError:
            return None

    def client_id(self, device: str) -> str:
        """Returns the MQTT client id of this device, which no other device can guess.

        A broker ends a client's connection when another comes with the same id (MQTT 5.0,
        section 3.1.4), whoever that is. It is the same after a restart, so that a connection which
        was cut is replaced, and its will does not come later.

        Args:
            device: The device's id.
        """
        try:
            secret = hashlib.sha256(b"client id\n" + (self.path / KEY).read_bytes()).hexdigest()
        except OSError:  # without TLS nobody has a secret
            return f"trimtab-agent-{device}"
        return f"trimtab-agent-{device}-{secret[:16]}"

    def next_set(self, name: str) -> NextSet:
        """Returns the next set of files called `enrolling` or `renewing`."""
        return NextSet(self.path / name)

    def settle(self) -> None:
        """Finishes what a power cut has interrupted. Harmless when there is nothing to do.

        Raises:
            StorageError: The disk refuses.
        """
        for name in ("enrolling", "renewing"):
            self.next_set(name).settle()


class NextSet:
    """The files that are to replace the present ones, in a directory of their own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> bytes | None:
        """Returns one of the files, or None while it is not there.

        Raises:
            StorageError: It cannot be read.
        """
        with storage_errors(f"reading {self._path / name}"):
            try:
                return (self._path / name).read_bytes()
            except FileNotFoundError:
                return None

    def path_of(self, name: str) -> Path:
        """Returns where one of the files lies."""
        return self._path / name

    def write(self, name: str, data: bytes) -> None:
        """Puts one of the files on the disk, readable by this user only.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"writing {self._path / name}"):
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished = self._path / f"{name}.new"
            # Made anew, so that the mode holds from the first byte on.
            unfinished.unlink(missing_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path / name)
            sync_directory(self._path)
            sync_directory(self._path.parent)

    def settle(self) -> None:
        """Moves the files of a complete set over the present ones, `device.pem` last.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"moving {self._path} into place"):
            if not (self._path / CERTIFICATE).exists():
                return
            for name in _IN_ORDER:
                if name == CERTIFICATE:  # the others must be on the disk before the mark goes
                    sync_directory(self._path.parent)
                if (self._path / name).exists():
                    (self._path / name).replace(self._path.parent / name)
            sync_directory(self._path.parent)
            for rest in self._path.iterdir():
                rest.unlink()
            self._path.rmdir()
