"""A release as a folder of plain files: for a USB stick, or for any static HTTP server.

The order is that of a broker (`fleet.publish`), and each step is on the disk before the next. So
a stick that is pulled out too early has chunks that nothing refers to yet, and leads to the release
before.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab.package.files import write_atomically
from trimtab.package.read import Package
from trimtab.package.sign import Repository
from trimtab_agent.contract import layout
from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.durable import storage_errors, write_file

_STAGING = ".trimtab-unfinished"
_READABLE = 0o644
"""The HTTP server is often another user."""


@dataclass(frozen=True, kw_only=True)
class FolderResult:
    """What was written.

    Attributes:
        target: TUF target name of the package.
        chunks: Distinct chunks in the package.
        chunks_written: Those that were not there, or damaged.
        written_bytes: Their bytes.
    """

    target: str
    chunks: int
    chunks_written: int
    written_bytes: int


def write_folder(
    directory: Path, repository: Repository, package: Package, assignments: Mapping[str, bytes]
) -> FolderResult:
    """Releases a package and writes all that a device needs to install it.

    What the folder holds of other packages stays. Its timestamp is signed anew: devices take the
    folder for as long as that holds.

    Args:
        directory: Made if it is missing. Laid out as `contract.layout` says.
        repository: Signs the release.
        package: The package.
        assignments: Signed assignments by device.

    Raises:
        IntegrityError: The package has changed since it was opened.
        CallerError: This version is released already, with other content.
        RepositoryError: The repository lacks a key or a file.
        StorageError: The disk is full, refuses, or was pulled out.
    """
    target = package.manifest.target_name
    repository.add_target(target, package.manifest_bytes)
    repository.refresh_timestamp()  # its whole time is for the way to the device
    sizes = _write_chunks(directory, package)
    for name, data in repository.documents():
        _write(directory, layout.document(name), data)
    _write(directory, layout.ROOT_VERSION, str(repository.root_version).encode())
    for device, message in assignments.items():
        _write(directory, layout.assignment(device), message)
    written = [size for size in sizes if size is not None]
    return FolderResult(
        target=target,
        chunks=len(sizes),
        chunks_written=len(written),
        written_bytes=sum(written),
    )


def _write_chunks(directory: Path, package: Package) -> list[int | None]:
    """Writes the chunks that are not there; returns the size of each, or None for those that are.

    They are forced to the disk together: one by one takes longer than writing them, on a stick.
    """
    staging = directory / _STAGING
    sizes: list[int | None] = []
    with storage_errors(f"writing chunks to {directory}"):
        staging.mkdir(parents=True, exist_ok=True)
        for chunk, wire in package.wire_chunks():
            path = directory / layout.blob(chunk.sha256)
            if path.is_file() and sha256_hex(path.read_bytes()) == chunk.sha256:
                sizes.append(None)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, wire, staging=staging)
            path.chmod(_READABLE)
            sizes.append(len(wire))
        shutil.rmtree(staging)
        _sync_file_system(directory)
    return sizes


def _sync_file_system(directory: Path) -> None:
    """Waits until the file system of `directory` is on its disk; os.sync() waits for every disk.

    Raises:
        OSError: The disk refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        if libc.syncfs(descriptor) != 0:  # syncfs(2)
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def _write(directory: Path, name: str, data: bytes) -> None:
    path = directory / name
    with storage_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data, mode=_READABLE)
