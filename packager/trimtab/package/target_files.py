"""The content of TUF targets on disk: `<sha256>.<name>`, as TUF's consistent snapshots name it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuf.api.metadata import TargetFile

from trimtab.errors import RepositoryError
from trimtab.package.files import write_atomically
from trimtab_agent.contract import chunks, codec
from trimtab_agent.contract.messages import ASSIGNMENT_KEYS_TARGET, AssignmentKeys
from trimtab_agent.errors import CallerError, FormatError


class TargetFiles:
    """The targets in one directory.

    Args:
        directory: Where they are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, targets: Mapping[str, bytes]) -> dict[str, TargetFile]:
        """Writes contents by name and returns how metadata lists them.

        Raises:
            StorageError: A file cannot be written.
        """
        listed = {}
        for name, data in targets.items():
            write_atomically(self._path(name, chunks.sha256_hex(data)), data)
            listed[name] = TargetFile.from_data(name, data, ["sha256"])
        return listed

    def read(self, name: str, sha256: str) -> bytes:
        """Returns the content that was signed.

        Raises:
            RepositoryError: Its file is missing or has other bytes.
        """
        path = self._path(name, sha256)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RepositoryError(f"cannot read {path}: {error.strerror}") from error
        if chunks.sha256_hex(data) != sha256:
            raise RepositoryError(f"{path} has other bytes than were signed: restore it")
        return data

    def read_assignment_keys(self, sha256: str) -> dict[str, bytes]:
        """Returns the raw public keys in a list of assignment keys, by key id.

        Raises:
            RepositoryError: Its file is missing, has other bytes, or is no such list.
        """
        data = self.read(ASSIGNMENT_KEYS_TARGET, sha256)
        try:
            return codec.decode(data, AssignmentKeys, what=ASSIGNMENT_KEYS_TARGET).keys
        except FormatError as error:
            raise RepositoryError(f"{error}; restore it from a backup") from error

    def _path(self, name: str, sha256: str) -> Path:
        return self._directory / f"{sha256}.{name}"


def check_release(name: str, data: bytes, released: Mapping[str, str]) -> None:
    """Refuses a name that cannot be a file, or one that stands for other content already.

    Args:
        name: The new target's name.
        data: Its content.
        released: SHA-256 of every released target, by name.

    Raises:
        CallerError: It is refused.
    """
    if not name or "/" in name or name.startswith("."):
        raise CallerError(f"{name!r} cannot name a TUF target: take a plain file name")
    sha256 = chunks.sha256_hex(data)
    if released.get(name, sha256) != sha256:
        raise CallerError(
            f"{name!r} is released already, with other content: give the package a new version"
        )
