"""Where each chunk lies among the packages of a workspace.

A package is a ZIP file with stored entries, so a chunk is a range of the file: its directory is
read once, and a chunk with one seek. No package is ever in memory as a whole.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import struct
import threading
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

from trimtab.package.build import CHUNK_FOLDER
from trimtab.package.files import replacing
from trimtab.package.read import Package, open_package
from trimtab_agent.contract.chunks import MAX_CHUNK_BYTES, sha256_hex

_log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0
"""Chunks that are not here make the folder be read again, but no more often."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a ZIP entry: signature, and the lengths of name and extra field (APPNOTE.TXT, 4.3.7)."""


class _Place(NamedTuple):
    """Where a chunk is: its ZIP header's offset, and its length."""

    path: Path
    header_offset: int
    size_bytes: int


class Library:
    """The chunks of all packages in a folder, by hash. Safe to use from several threads.

    Args:
        directory: The folder; packages may come and go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[int, int]] = {}
        self._places: dict[bytes, _Place] = {}
        self._looked = float("-inf")

    def read(self, sha256: str) -> bytes | None:
        """Returns a chunk's bytes, or None if no package has it whole.

        Args:
            sha256: Of the bytes, in hexadecimal.
        """
        key = bytes.fromhex(sha256)
        place = self._places.get(key)
        if place is None:
            self._look()
            place = self._places.get(key)
        return None if place is None else _read(place, sha256)

    def _look(self) -> None:
        """Reads the directories of packages that are new; of all, if one has changed or is gone.

        A package that another process writes appears by a rename, so it is whole.
        """
        with self._lock:
            if time.monotonic() - self._looked < _LOOK_AGAIN_S:
                return
            present = {}
            for path in self._directory.glob("*.trimtab"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    present[path] = status.st_mtime_ns, status.st_ino
            if any(present.get(path) != seen for path, seen in self._seen.items()):
                # Several packages may hold a chunk that one of them has lost.
                self._places, self._seen = {}, {}
            places = dict(self._places)
            for path in sorted(present.keys() - self._seen.keys()):
                places.update(_index(path))
            self._places, self._seen = places, present
            self._looked = time.monotonic()


def adopt(directory: Path, package: Package) -> Package:
    """Puts a package among those of a workspace, unless it is there.

    Only from there can the host serve its chunks later.

    Args:
        directory: The workspace's packages.
        package: A package, wherever it lies.

    Returns:
        The package in the workspace.

    Raises:
        PackageError: The workspace has a damaged package under this name.
        StorageError: The disk has no room or refuses.
    """
    own = directory / f"{package.manifest.target_name.removesuffix('.json')}.trimtab"
    if own.is_file():
        return open_package(own)
    with replacing(own) as stream, package.path.open("rb") as file:
        shutil.copyfileobj(file, stream)
    return open_package(own)


def _index(path: Path) -> dict[bytes, _Place]:
    """Returns where the chunks of one package are."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        _log.warning("%s is left aside: %s", path, error)
        return {}
    places = {}
    for info in infos:
        name = info.filename.removeprefix(CHUNK_FOLDER)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_CHUNK_BYTES:
            continue
        with contextlib.suppress(ValueError):  # the manifest, and what is no chunk
            places[bytes.fromhex(name)] = _Place(path, info.header_offset, info.file_size)
    return places


def _read(place: _Place, sha256: str) -> bytes | None:
    """Returns the chunk that lies there; None, with a warning, if it does not any more."""
    try:
        with place.path.open("rb") as file:
            file.seek(place.header_offset)
            _, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            file.seek(name_length + extra_length, 1)
            wire = file.read(place.size_bytes)
    except (OSError, struct.error) as error:
        _log.warning("%s: chunk %s cannot be read: %s", place.path, sha256[:12], error)
        return None
    if sha256_hex(wire) != sha256:
        _log.warning("%s: chunk %s has other bytes: restore it", place.path, sha256[:12])
        return None
    return wire
