"""Versions on disk: immutable directories, and a symlink that says which one is active.

    chunks/<two digits>/<sha256>    as they travelled, kept so that an update fetches little
    versions/<manifest sha256>/     manifest.json and the package's files; never changed
    compiled/<manifest sha256>/     what this device's accelerator has made of them; may be deleted
    staging/                        unfinished; emptied at the next start
    current -> versions/...         what is active
    previous -> versions/...        what was active before, for the way back

A version is made in `staging` and renamed into `versions` when every byte is on the disk. A switch
replaces one symlink. So a kill or a power cut at any point leaves the old or the new, whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trimtab_agent.chunk_cache import ChunkCache
from trimtab_agent.contract.chunks import all_chunks, distinct_chunks, sha256_hex
from trimtab_agent.contract.manifest import Chunk, Delta, Manifest, PackageFile, parse_manifest
from trimtab_agent.decode import decode_file
from trimtab_agent.delta_base import FileBase, find_whole
from trimtab_agent.durable import point, storage_errors, sync_directory
from trimtab_agent.errors import IntegrityError, StorageError

MANIFEST = "manifest.json"
COMPILED = "compiled"
RESERVE_BYTES = 1024 * 1024
"""Room that must stay free beside a package: directory entries, metadata and the database."""


def free_bytes(path: Path) -> int:
    """Returns the bytes that this process may still write on the file system of `path`."""
    return shutil.disk_usage(path).free


@dataclass(frozen=True)
class Version:
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


class Store:
    """The packages of one device.

    Args:
        root: The directory for all of it; made if it is not there. One process at a time.
        free: Tells the free bytes at a path; replaced in tests.

    Raises:
        StorageError: The directories cannot be made.
    """

    def __init__(self, root: Path, *, free: Callable[[Path], int] = free_bytes) -> None:
        self._root = root
        self._free = free
        self._staging = root / "staging"
        self._versions = root / "versions"
        with storage_errors(f"making {root}"):
            for directory in (root / "chunks", self._staging, self._versions):
                directory.mkdir(parents=True, exist_ok=True)
        self.chunks = ChunkCache(root / "chunks", self._staging)

    @property
    def current(self) -> Version | None:
        """The active version, or None."""
        return read_version(self._root / "current")

    @property
    def previous(self) -> Version | None:
        """The version that `rollback` would make active, or None."""
        before = read_version(self._root / "previous")
        return before if before and before.sha256 != self._sha256_at("current") else None

    def find(self, sha256: str) -> Version | None:
        """Returns the installed version whose manifest has this SHA-256, or None."""
        return read_version(self._versions / sha256)

    def check_room(self, manifest: Manifest) -> None:
        """Checks that a package fits before any of it is fetched.

        Raises:
            StorageError: It does not fit; tells how much is needed and how much there is.
        """
        lacking = self._lacking(distinct_chunks(self.cheapest(manifest).files))
        needed = (
            sum(chunk.wire_bytes for chunk in lacking)
            + sum(file.size_bytes for file in manifest.files)
            + RESERVE_BYTES
        )
        with storage_errors(f"looking at the free room of {self._root}"):
            there = self._free(self._root)
        if there < needed:
            raise StorageError(
                f"{manifest.name} {manifest.version} needs {needed} bytes in {self._root}, "
                f"{there} are free: free {needed - there} more"
            )

    def install(self, manifest_bytes: bytes) -> Version:
        """Makes a version from the chunks in the cache. It is not active yet.

        Args:
            manifest_bytes: The verified manifest.

        Returns:
            The version; the one that is there already if it was installed before.

        Raises:
            FormatError: The manifest or a chunk cannot be read.
            IntegrityError: A chunk is missing or damaged, or a file has another hash than the
                manifest says.
            StorageError: The disk is full or refuses. Nothing is left behind.
        """
        manifest = parse_manifest(manifest_bytes)
        sha256 = sha256_hex(manifest_bytes)
        final = self._versions / sha256
        if not final.exists():
            with storage_errors(f"installing {manifest.name} {manifest.version}"):
                unfinished = Path(tempfile.mkdtemp(dir=self._staging))
                try:
                    self._fill(unfinished, manifest, manifest_bytes)
                    unfinished.rename(final)
                    sync_directory(self._versions)
                except BaseException:
                    shutil.rmtree(unfinished, ignore_errors=True)
                    raise
        return Version(sha256, final, manifest)

    def _fill(self, directory: Path, manifest: Manifest, manifest_bytes: bytes) -> None:
        """Writes a version's files into `directory`, and all of it to the disk."""
        directory.chmod(0o755)  # mkdtemp's 0700 would hide the model from the programs that use it
        _write_synced(directory / MANIFEST, [manifest_bytes])
        for file in manifest.files:
            path = directory / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._assemble(path, file)
        for parent, _, _ in os.walk(directory):
            sync_directory(Path(parent))

    def _assemble(self, path: Path, file: PackageFile) -> None:
        """Decodes a file from its chunks, or from a delta's, and checks its hash."""

        def read(chunk: Chunk) -> bytes:
            try:
                return self.chunks.read(chunk)
            except FileNotFoundError as error:
                raise IntegrityError(
                    f"{file.path}: chunk {chunk.sha256[:12]} is not on this device"
                ) from error

        for delta in file.deltas:
            base = self._find_base(delta)
            if base and not self._lacking(delta.chunks):
                changed = msgspec.structs.replace(file, chunks=delta.chunks)
                with base.open("rb") as content:
                    _write_synced(path, decode_file(changed, read, base=FileBase(content)))
                return
        _write_synced(path, decode_file(file, read))

    def cheapest(self, manifest: Manifest) -> Manifest:
        """Returns a manifest whose files have the chunks that this device should fetch.

        These are a file's own or those of a delta from a file that is here, whichever needs fewer
        bytes that are not here. `install` takes either.

        Raises:
            StorageError: The disk refuses.
        """
        files = [msgspec.structs.replace(f, chunks=self._ways(f)[0]) for f in manifest.files]
        return msgspec.structs.replace(manifest, files=tuple(files))

    def _ways(self, file: PackageFile) -> list[tuple[Chunk, ...]]:
        """Returns what a file can be made of here, what needs the fewest bytes first."""
        ways = [file.chunks, *(d.chunks for d in file.deltas if self._find_base(d))]
        return sorted(ways, key=lambda way: sum(c.wire_bytes for c in self._lacking(way)))

    def _lacking(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        return [chunk for chunk in chunks if not self.chunks.has(chunk)]

    def _find_base(self, delta: Delta) -> Path | None:
        """Returns the file that a delta starts from, if an installed version has it whole."""
        versions = [version for version in (self.current, self.previous) if version]
        paths = [
            version.path / file.path
            for version in versions
            for file in version.manifest.files
            if file.sha256 == delta.base_sha256
        ]
        return find_whole(paths, delta.base_sha256)

    def switch(self, version: Version) -> None:
        """Makes an installed version the active one. Again with the same one: does nothing.

        Raises:
            StorageError: The disk refuses; the version before is still active.
        """
        with storage_errors(f"switching to {version.manifest.target_name}"):
            before = self._sha256_at("current")
            if before == version.sha256:
                return
            # In this order a kill in between leaves `previous` equal to `current`: no way back
            # is offered, and none is needed, because nothing was switched.
            if before:
                self._point("previous", before)
            self._point("current", version.sha256)

    def rollback(self, version: Version) -> None:
        """Makes the version before `version` the active one, or none if there was none.

        Does nothing when `version` is not active, so that it can be repeated after a kill.

        Raises:
            StorageError: The disk refuses; `version` is still active.
        """
        if self._sha256_at("current") != version.sha256:
            return
        before = self.previous
        with storage_errors(f"rolling back from {version.manifest.target_name}"):
            if before:
                self._point("current", before.sha256)
            else:
                # An older rollback may have left this link to what has failed now.
                (self._root / "previous").unlink(missing_ok=True)
                (self._root / "current").unlink()
                sync_directory(self._root)

    def clear_staging(self) -> None:
        """Removes what killed runs left unfinished; chunks stay, for the transfer to go on.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"clearing {self._staging}"):
            shutil.rmtree(self._staging)
            self._staging.mkdir()

    def collect_garbage(self) -> None:
        """Removes everything but the current and the previous version and their chunks.

        Raises:
            StorageError: The disk refuses.
        """
        self.clear_staging()
        kept = [version for version in (self.current, self.previous) if version]
        names = {version.sha256 for version in kept}
        with storage_errors(f"clearing {self._versions}"):
            if self.previous is None:
                (self._root / "previous").unlink(missing_ok=True)
            for path in self._versions.iterdir():
                if path.name not in names:
                    # Renamed first: a kill in the middle must not leave half a version in place.
                    doomed = Path(tempfile.mkdtemp(dir=self._staging)) / path.name
                    path.rename(doomed)
                    shutil.rmtree(doomed.parent)
        self._forget_compiled(names)
        self.chunks.keep_only(
            {chunk.sha256 for version in kept for chunk in all_chunks(version.manifest.files)}
        )

    def _forget_compiled(self, names: set[str]) -> None:
        """Removes what was compiled of versions other than these; half of it left does no harm."""
        compiled = self._root / COMPILED
        with storage_errors(f"clearing {compiled}"):
            for path in compiled.iterdir() if compiled.is_dir() else ():
                if path.name not in names:
                    shutil.rmtree(path)

    def _sha256_at(self, link: str) -> str | None:
        """Returns the manifest hash that a symlink points to, or None."""
        path = self._root / link
        return path.readlink().name if path.is_symlink() else None

    def _point(self, link: str, sha256: str) -> None:
        point(self._root / link, self._versions / sha256, staging=self._staging)


def read_version(path: Path) -> Version | None:
    """Reads the version in a directory, or that a symlink points to; None if there is none.

    Raises:
        FormatError: Its manifest is damaged.
        StorageError: The disk refuses.
    """
    with storage_errors(f"reading {path}"):
        directory = path.resolve()
        if not (directory / MANIFEST).exists():
            return None
        data = (directory / MANIFEST).read_bytes()
    return Version(directory.name, directory, parse_manifest(data, what=str(path / MANIFEST)))


def _write_synced(path: Path, pieces: Iterable[bytes]) -> None:
    """Writes a new file, read-only from then on, and puts it on the disk."""
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
