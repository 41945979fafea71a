"""A `.trimtab` file back into a manifest and chunks, every byte checked.

Nothing in the file is believed before it is checked, and nothing is decompressed on the way to
the manifest: entries must be stored, so that their size is bounded by the file's own. Each chunk
is then checked as it lies there, and decoded within the bounds of the weight codec.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimtab.package.build import CHUNK_FOLDER, MANIFEST_ENTRY, Base
from trimtab_agent.contract import chunks
from trimtab_agent.contract.manifest import Chunk, Manifest, PackageFile, parse_manifest
from trimtab_agent.decode import decode_file
from trimtab_agent.errors import CallerError, FormatError, IntegrityError, PackageError

MAX_MANIFEST_BYTES = 12 * 1024 * 1024
"""About 60,000 chunks, which is 5 GiB of them at the default chunk size. A device reads no longer
document."""

MAX_FILES_BYTES = 4 * 1024**3
"""All files of a package, decoded: the bound on the work that one small, hostile file can ask for
by naming the same chunk over and over."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package whose every byte has been checked.

    Attributes:
        path: The file.
        manifest: Its manifest.
        manifest_bytes: The manifest's exact text: what becomes a TUF target.
    """

    path: Path
    manifest: Manifest
    manifest_bytes: bytes

    def wire_chunks(self) -> Iterator[tuple[Chunk, bytes]]:
        """Yields every distinct chunk with its bytes on the wire, in order of first use.

        Raises:
            IntegrityError: The file has changed since it was opened.
            FormatError: It is no longer a package.
        """
        with _open(self.path) as archive:
            for chunk in chunks.all_chunks(self.manifest.files):
                wire = _wire(archive, self.path.name, chunk)
                with _naming(self.path.name):
                    chunks.verify_chunk(chunk, wire)
                yield chunk, wire

    def read_file(self, path: str) -> bytes:
        """Returns the content of one file of the package.

        Args:
            path: As in the manifest.

        Raises:
            CallerError: There is no such file in the package.
            IntegrityError: The package has changed since it was opened.
            FormatError: It is no longer a package.
        """
        paths = [entry.path for entry in self.manifest.files]
        if path not in paths:
            raise CallerError(f"{self.path.name} has no file {path!r}: it has {', '.join(paths)}")
        with _open(self.path) as archive:
            return b"".join(_pieces(archive, self.path.name, self.manifest.file(path)))

    def as_base(self) -> Base:
        """Returns the package as what another version's deltas may start from.

        Raises:
            IntegrityError: The package has changed since it was opened.
            FormatError: It is no longer a package.
        """
        files = self.manifest.files
        return Base(
            contents={entry.path: self.read_file(entry.path) for entry in files},
            chunks={chunk.sha256 for chunk in chunks.distinct_chunks(files)},
        )


def open_package(path: Path) -> Package:
    """Opens a package and checks all of it.

    Args:
        path: A `.trimtab` file.

    Raises:
        CallerError: The file cannot be read.
        FormatError: It is no package, or one that contradicts itself; the entry is named.
        IntegrityError: A hash, checksum or length does not match; the entry is named.
    """
    with _open(path) as archive:
        infos = _entries(archive, path.name)
        manifest_bytes = _read(archive, path.name, infos[MANIFEST_ENTRY])
        manifest = parse_manifest(manifest_bytes, what=f"{path.name}: {MANIFEST_ENTRY}")
        _check_chunks_match(manifest, infos, path.name)
        for entry in manifest.files:
            for _ in _pieces(archive, path.name, entry):
                pass
        for chunk in chunks.all_chunks(manifest.files):
            with _naming(path.name):
                chunks.verify_chunk(chunk, _wire(archive, path.name, chunk))
    return Package(path=path, manifest=manifest, manifest_bytes=manifest_bytes)


def read_manifest(path: Path) -> Manifest:
    """Returns the manifest of a package, of which nothing else is checked.

    Args:
        path: A `.trimtab` file.

    Raises:
        CallerError: The file cannot be read.
        FormatError: It is no package, or its manifest is malformed.
        IntegrityError: The manifest is damaged.
    """
    with _open(path) as archive:
        data = _read(archive, path.name, _entries(archive, path.name)[MANIFEST_ENTRY])
    return parse_manifest(data, what=f"{path.name}: {MANIFEST_ENTRY}")


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise CallerError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise FormatError(
            f"{path.name} is no package, or is cut short: {error}; copy or build it again"
        ) from error


def _entries(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """Returns the directory of the archive: stored entries with names of a package, each once."""
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        entry = info.filename
        if entry in infos:
            raise FormatError(f"{name}: entry {entry!r} occurs twice")
        if entry != MANIFEST_ENTRY and not entry.startswith(CHUNK_FOLDER):
            raise FormatError(f"{name}: entry {entry!r} does not belong in a package")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise FormatError(f"{name}: entry {entry!r} is compressed or encrypted, not stored")
        infos[entry] = info
    if MANIFEST_ENTRY not in infos:
        raise FormatError(f"{name} is no package, or is cut short: it has no {MANIFEST_ENTRY}")
    size_bytes = infos[MANIFEST_ENTRY].file_size
    if size_bytes > MAX_MANIFEST_BYTES:
        raise FormatError(
            f"{name}: {MANIFEST_ENTRY} has {size_bytes} bytes, more than {MAX_MANIFEST_BYTES}"
        )
    return infos


def _check_chunks_match(
    manifest: Manifest, infos: Mapping[str, zipfile.ZipInfo], name: str
) -> None:
    """Checks that the archive holds the manifest's chunks, all of them and nothing else."""
    total = sum(entry.size_bytes for entry in manifest.files)
    if total > MAX_FILES_BYTES:
        raise FormatError(f"{name}: files of {total} bytes, more than {MAX_FILES_BYTES}")
    listed = {CHUNK_FOLDER + chunk.sha256 for chunk in chunks.all_chunks(manifest.files)}
    present = set(infos) - {MANIFEST_ENTRY}
    if listed - present:
        raise FormatError(f"{name}: {min(listed - present)} is listed but not there")
    if present - listed:
        raise FormatError(f"{name}: {min(present - listed)} is there but not listed")


def _pieces(archive: zipfile.ZipFile, name: str, entry: PackageFile) -> Iterator[bytes]:
    """Yields the content of a file piece by piece, checked; it need not fit in memory."""
    with _naming(name):
        yield from decode_file(entry, lambda chunk: _wire(archive, name, chunk))


def _wire(archive: zipfile.ZipFile, name: str, chunk: Chunk) -> bytes:
    """Returns a chunk's bytes as they are in the archive; only their length is checked."""
    if chunk.wire_bytes > chunks.MAX_CHUNK_BYTES:
        raise FormatError(
            f"{name}: chunk {chunk.sha256[:12]} has {chunk.wire_bytes} bytes on the wire; "
            f"at most {chunks.MAX_CHUNK_BYTES} are allowed"
        )
    try:
        info = archive.getinfo(CHUNK_FOLDER + chunk.sha256)
    except KeyError as error:
        raise IntegrityError(f"{name}: chunk {chunk.sha256[:12]} is gone") from error
    if info.file_size != chunk.wire_bytes:
        raise IntegrityError(
            f"{name}: chunk {chunk.sha256[:12]} has {info.file_size} bytes, not {chunk.wire_bytes}"
        )
    return _read(archive, name, info)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the package's name before the message of an error that knows only the chunk."""
    try:
        yield
    except PackageError as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise type(error)(f"{name}: {error}") from error


def _read(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> bytes:
    """Returns the bytes of one stored entry; zipfile compares their CRC-32."""
    label = info.filename
    if label.startswith(CHUNK_FOLDER):
        label = f"chunk {label.removeprefix(CHUNK_FOLDER)[:12]}"
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise IntegrityError(f"{name}: {label}: {error}; copy or build it again") from error
