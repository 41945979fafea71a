"""A package on this device's disk: an immutable directory, named by the hash of its manifest."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.manifest import Manifest, parse_manifest
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import DamagedError, FormatError

_log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
COMPILED = "compiled"
"""Directory beside `versions`; it has one of its own for each version."""


class Version(msgspec.Struct, frozen=True):
    """A package on this device's disk.

    Attributes:
        sha256: Of its manifest.
        path: Its directory.
        manifest: What it is.
    """

    sha256: str
    path: Path
    manifest: Manifest

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest as it was signed.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"reading {self.path / MANIFEST}"):
            return (self.path / MANIFEST).read_bytes()

    @property
    def model(self) -> Path:
        """The model file."""
        return self.path / self.manifest.runtime.model

    @property
    def golden(self) -> Path:
        """The file of golden samples."""
        return self.path / self.manifest.golden.path

    @property
    def compiled(self) -> Path:
        """Where this device keeps what it compiles from the model; there when something is."""
        return self.path.parent.parent / COMPILED / self.sha256


def read_version(path: Path) -> Version | None:
    """Reads the version in a directory, or that a symlink points to; None if there is none.

    Raises:
        DamagedError: Its manifest is not the one that was installed.
        FormatError: A newer agent installed it, and this one cannot read its manifest.
        StorageError: The disk refuses.
    """
    with storage_errors(f"reading {path}"):
        directory = path.resolve()
        if not (directory / MANIFEST).exists():
            return None
        data = (directory / MANIFEST).read_bytes()
    if sha256_hex(data) != directory.name:
        raise DamagedError(f"{directory / MANIFEST} is not what was installed")
    return Version(directory.name, directory, parse_manifest(data, what=str(path / MANIFEST)))


def read_if_whole(path: Path) -> Version | None:
    """Reads a version; a damaged one is as good as none."""
    try:
        return read_version(path)
    except (DamagedError, FormatError) as error:
        _log.warning("%s", error)
        return None
