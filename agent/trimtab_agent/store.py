"""The packages on a device's disk: immutable directories, made whole and removed whole.

    chunks/<number>.pack            as they travelled, kept so that an update fetches little
    versions/<manifest sha256>/     manifest.json and the package's files; never changed
    compiled/<manifest sha256>/     what this device's accelerator has made of them; may be deleted
    staging/                        unfinished; emptied at the next start
    current, committed, previous    symlinks into versions (`links`)

A version is made in `staging` and renamed into `versions` when every byte is on the disk. A switch
replaces one symlink. So a kill or a power cut at any point leaves the old or the new, whole.

A directory's name is the hash of its manifest, and the manifest has the hash of every file: what
the disk has damaged later shows.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from trimtab_agent import assembly
from trimtab_agent.assembly import Order
from trimtab_agent.chunk_cache import ChunkCache
from trimtab_agent.contract.chunks import all_chunks, distinct_chunks, sha256_hex
from trimtab_agent.contract.manifest import Chunk, Delta, Manifest, PackageFile, parse_manifest
from trimtab_agent.delta_base import find_whole
from trimtab_agent.durable import (
    make_directories,
    storage_errors,
    sync_directory,
    wait_until_let_go,
)
from trimtab_agent.errors import StorageError, TrimtabError
from trimtab_agent.links import Links
from trimtab_agent.version import COMPILED, Version, read_if_whole

_log = logging.getLogger(__name__)
RESERVE_BYTES = 1024 * 1024
"""Room that must stay free beside a package: directory entries, metadata and the database."""


def free_bytes(path: Path) -> int:
    """Returns the bytes that this process may still write on the file system of `path`."""
    return shutil.disk_usage(path).free


class Store(Links):
    """The packages of one device.

    Args:
        root: The directory for all of it; made if it is not there. One process at a time.
        free: Tells the free bytes at a path; replaced in tests.
        assemble: Makes a version's files; the agent has a child process do it.

    Raises:
        StorageError: The directories cannot be made.
    """

    def __init__(
        self,
        root: Path,
        *,
        free: Callable[[Path], int] = free_bytes,
        assemble: Callable[[Order], None] = assembly.assemble,
    ) -> None:
        super().__init__(root)
        self._free = free
        self._assemble = assemble
        with storage_errors(f"making {root}"):
            make_directories(root / "chunks", self._staging, self._versions)
        self.chunks = ChunkCache(root / "chunks")

    def find(self, sha256: str) -> Version | None:
        """Returns the installed version whose manifest has this SHA-256, or None."""
        return read_if_whole(self._versions / sha256)

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

    def install(self, manifest_bytes: bytes, *, anew: bool = False) -> Version:
        """Makes a version from the chunks in the cache. It is not active yet.

        Args:
            manifest_bytes: The verified manifest.
            anew: Make it also if it is there, in place of that one, which is damaged.

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
        if anew or not final.exists():
            with storage_errors(f"installing {manifest.name} {manifest.version}"):
                unfinished = Path(tempfile.mkdtemp(dir=self._staging))
                try:
                    self._assemble(self._order(unfinished, manifest, manifest_bytes))
                    if final.exists():
                        self._remove(final)
                    unfinished.rename(final)
                    sync_directory(self._versions)
                except BaseException:
                    shutil.rmtree(unfinished, ignore_errors=True)
                    raise
        return Version(sha256, final, manifest)

    def _order(self, directory: Path, manifest: Manifest, manifest_bytes: bytes) -> Order:
        """Says what to assemble in `directory`, and from which files deltas may start."""
        deltas = [delta for file in manifest.files for delta in file.deltas]
        found = {delta.base_sha256: self._find_base(delta) for delta in deltas}
        return Order(
            manifest=manifest_bytes,
            directory=str(directory.absolute()),
            chunks=str((self._root / "chunks").absolute()),
            staging=str(self._staging.absolute()),
            bases={sha256: str(path.absolute()) for sha256, path in found.items() if path},
        )

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

    def lacks(self, manifest: Manifest) -> bool:
        """Says whether chunks are missing that `install` needs.

        Raises:
            StorageError: The disk refuses.
        """
        return bool(self._lacking(distinct_chunks(self.cheapest(manifest).files)))

    def _lacking(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        return [chunk for chunk in chunks if not self.chunks.has(chunk)]

    def _find_base(self, delta: Delta) -> Path | None:
        """Returns the file that a delta starts from, if an installed version has it whole."""
        paths = [
            version.path / file.path
            for version in self._kept()
            for file in version.manifest.files
            if file.sha256 == delta.base_sha256
        ]
        return find_whole(filter(Path.is_file, paths), delta.base_sha256)

    def recover(self, manifest: bytes | None) -> None:
        """Makes `current` a version that can be read, after damage to the disk or the database.

        Args:
            manifest: The last one that this device has verified, if that is known.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"recovering {self._root}"):
            active = self._sha256_at("current")
            if active is None or read_if_whole(self._root / "current"):
                return
            if manifest is not None and sha256_hex(manifest) == active:
                try:
                    self.install(manifest, anew=True)
                except TrimtabError as error:
                    _log.error("the active version cannot be made again: %s", error)
                else:
                    return
            _log.error("the active version %s is lost; going back", active[:12])
            self._go_back()
            self._unlink("committed")

    def damage(self, version: Version) -> str | None:
        """Reads all of a version, and says what is not as it was installed; None for nothing.

        Raises:
            StorageError: The disk refuses.
        """
        for file in version.manifest.files:
            path = version.path / file.path
            if not path.is_file():
                return f"{file.path} is gone"
            if find_whole([path], file.sha256) is None:
                return f"{file.path} is not what was installed"
        return None

    def clear_staging(self) -> None:
        """Removes what killed runs left unfinished; chunks stay, for the transfer to go on.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"clearing {self._staging}"):
            wait_until_let_go(self._staging)  # a child of a killed agent may still be writing
            # Not the directory itself: a full disk might refuse to make it again.
            for path in self._staging.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def collect_garbage(self) -> None:
        """Removes all but the current, committed and previous version and their chunks.

        Raises:
            StorageError: The disk refuses.
        """
        self.clear_staging()
        kept = self._kept()
        names = {version.sha256 for version in kept}
        with storage_errors(f"clearing {self._versions}"):
            for link in ("committed", "previous"):
                if self._before(link) is None:
                    self._unlink(link)
            for path in self._versions.iterdir():
                if path.name not in names:
                    self._remove(path)
        self._forget_compiled(names)
        self.chunks.keep_only(
            {chunk.sha256 for version in kept for chunk in all_chunks(version.manifest.files)}
        )

    def _kept(self) -> list[Version]:
        """Returns the versions that are in use, or may be again."""
        return [version for version in (self.current, self.committed, self.previous) if version]

    def _remove(self, version: Path) -> None:
        """Removes a version; a kill in the middle must not leave half of it in place."""
        doomed = Path(tempfile.mkdtemp(dir=self._staging)) / version.name
        version.rename(doomed)
        sync_directory(self._versions)  # or a power cut may take the files and not the name
        shutil.rmtree(doomed.parent)

    def _forget_compiled(self, names: set[str]) -> None:
        """Removes what was compiled of versions other than these; half of it left does no harm."""
        compiled = self._root / COMPILED
        with storage_errors(f"clearing {compiled}"):
            for path in compiled.iterdir() if compiled.is_dir() else ():
                if path.name not in names:
                    shutil.rmtree(path)
