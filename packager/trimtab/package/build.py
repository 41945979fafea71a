"""From files and what is known of them to one `.trimtab` file.

The same input gives the same bytes: no clock is read, names are sorted, dates are fixed. (zstd
may pack differently from one of its releases to the next; such a package holds the same files in
other chunks.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from trimtab.package.archive import write_archive
from trimtab.package.encoding import Chunks, encode_change, encode_file, is_worth
from trimtab.package.files import replacing
from trimtab.package.golden import GoldenSamples, encode_golden
from trimtab_agent.contract import chunks, codec
from trimtab_agent.contract.manifest import (
    FORMAT,
    Budget,
    Chunk,
    Counts,
    Delta,
    Evaluation,
    Golden,
    Hardware,
    Lineage,
    Manifest,
    PackageFile,
    RuntimeSpec,
    Sizes,
    TensorSpec,
    is_safe_path,
    parse_manifest,
)
from trimtab_agent.contract.session_options import option_faults
from trimtab_agent.errors import CallerError

SUFFIX = ".trimtab"
MANIFEST_ENTRY = "manifest.json"
CHUNK_FOLDER = "chunks/"
GOLDEN_PATH = "golden.npz"


class Description(msgspec.Struct, kw_only=True, frozen=True):
    """What the manifest says that cannot be computed from the files.

    Attributes:
        name: The package's name, the same over its versions.
        version: Its version.
        created: UTC, RFC 3339. It is given, not read from a clock, so that a package can be
            made again.
        profile: Id of the hardware profile it was made for.
        hardware: What the device must have.
        runtime: How to run it; `runtime.model` is one of the packaged paths.
        inputs: In the model's order.
        outputs: In the model's order.
        labels: Class names by output index, if known.
        weight_bytes: The weights as the file stores them, decoded in memory.
        counts: Multiply-accumulates and parameters, if they were counted.
        evaluation: How good it is; None when there was no data.
        budget: What it was made to meet.
        lineage: Where it came from.
    """

    name: str
    version: str
    created: str
    profile: str
    hardware: Hardware = Hardware()
    runtime: RuntimeSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] | None = None
    weight_bytes: int
    counts: Counts | None = None
    evaluation: Evaluation | None = None
    budget: Budget = Budget()
    lineage: Lineage


@dataclass(frozen=True)
class Base:
    """A version that devices may have.

    Attributes:
        contents: Its files by their paths in the package.
        chunks: Hashes of the chunks that make them up.
    """

    contents: Mapping[str, bytes]
    chunks: set[str]

    def sha256(self, path: str) -> str:
        """Returns the hash of one of its files."""
        return chunks.sha256_hex(self.contents[path])


def build_package(
    directory: Path,
    *,
    description: Description,
    files: Mapping[str, Path],
    golden: GoldenSamples,
    bases: Sequence[Base] = (),
    chunk_limit_bytes: int = chunks.DEFAULT_CHUNK_BYTES,
) -> Path:
    """Writes `<name>-<version>.trimtab`, whole or not at all.

    Args:
        directory: Where to write it; made if it is missing.
        description: What the manifest says of the package.
        files: What to pack: paths in the package, and where the files are.
        golden: Samples that the device must reproduce.
        bases: Versions that devices may have: a delta from each is added for every file of which
            it saves enough.
        chunk_limit_bytes: No chunk is longer.

    Returns:
        The path of the package.

    Raises:
        CallerError: A path cannot stand in a package, a file cannot be read, the chunk limit
            cannot be used, or a session option is unknown.
        DataError: The golden samples do not fit together, or not the inputs and outputs.
        FormatError: The description breaks a rule of the manifest, such as the form of a name.
        StorageError: The disk has no room or refuses the write.
    """
    contents = _read_files(files)
    _check(description, golden, chunk_limit_bytes)
    contents[GOLDEN_PATH] = encode_golden(golden)
    with tempfile.TemporaryFile() as stream:
        spool = _Spool(stream)
        entries = tuple(
            _pack_file(path, contents, bases, chunk_limit_bytes, spool) for path in sorted(contents)
        )
        manifest = codec.encode(_manifest(description, golden, entries))
        parse_manifest(manifest, what=f"manifest of {description.name}-{description.version}")
        path = directory / f"{description.name}-{description.version}{SUFFIX}"
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(path) as output:
            write_archive(output, _archive_entries(manifest, spool))
    return path


def _read_files(files: Mapping[str, Path]) -> dict[str, bytes]:
    """Reads every file to pack, by its path in the package."""
    contents = {}
    for name, source in files.items():
        if not is_safe_path(name) or name == GOLDEN_PATH:
            raise CallerError(
                f"{name!r} cannot be a path in a package: take relative paths of ASCII letters, "
                f"digits, '.', '_', '-', and not {GOLDEN_PATH!r}"
            )
        try:
            contents[name] = source.read_bytes()
        except OSError as error:
            raise CallerError(f"cannot read {source} for the package: {error.strerror}") from error
    return contents


def _check(description: Description, golden: GoldenSamples, chunk_limit_bytes: int) -> None:
    """Refuses what the manifest's own rules cannot see."""
    if not 0 < chunk_limit_bytes <= chunks.MAX_CHUNK_BYTES:
        raise CallerError(
            f"chunk limit must be 1 to {chunks.MAX_CHUNK_BYTES} bytes, got {chunk_limit_bytes}"
        )
    faults = option_faults(description.runtime.name, description.runtime.options)
    if faults:
        raise CallerError(f"the package cannot carry its session options: {'; '.join(faults)}")
    golden.check_against(description.inputs, description.outputs)


class _Spool:
    """Chunks on their way into the archive, on the disk: all of them may not fit in memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._places: dict[str, tuple[int, int]] = {}

    def add_all(self, coded: Chunks) -> tuple[Chunk, ...]:
        """Keeps chunks, each once however often it occurs, and returns them without their bytes."""
        for chunk, wire in coded:
            if chunk.sha256 not in self._places:
                self._places[chunk.sha256] = (self._stream.tell(), len(wire))
                self._stream.write(wire)
        return tuple(chunk for chunk, _ in coded)

    def sorted(self) -> Iterator[tuple[str, bytes]]:
        """Yields hash and wire bytes of every chunk, by rising hash."""
        for sha256, (at, length) in sorted(self._places.items()):
            self._stream.seek(at)
            yield sha256, self._stream.read(length)


def _pack_file(
    path: str,
    contents: Mapping[str, bytes],
    bases: Sequence[Base],
    limit_bytes: int,
    spool: _Spool,
) -> PackageFile:
    """Codes one file and its deltas into `spool`, and returns its entry in the manifest."""
    data = contents[path]
    whole = encode_file(path, contents, limit_bytes)
    deltas = []
    for base in {base.sha256(path): base for base in bases if path in base.contents}.values():
        if base.contents[path] == data:
            continue
        delta = encode_change(path, contents, base.contents, limit_bytes)
        if is_worth(delta, whole, base.chunks):
            deltas.append(Delta(base_sha256=base.sha256(path), chunks=spool.add_all(delta)))
    return PackageFile(
        path=path,
        size_bytes=len(data),
        sha256=chunks.sha256_hex(data),
        chunks=spool.add_all(whole),
        deltas=tuple(deltas),
    )


def _manifest(
    description: Description, golden: GoldenSamples, entries: tuple[PackageFile, ...]
) -> Manifest:
    """Puts together what was given and what was computed."""
    return Manifest(
        format=FORMAT,
        name=description.name,
        version=description.version,
        created=description.created,
        profile=description.profile,
        hardware=description.hardware,
        runtime=description.runtime,
        inputs=description.inputs,
        outputs=description.outputs,
        labels=description.labels,
        golden=Golden(
            path=GOLDEN_PATH,
            count=golden.count,
            max_abs_error=golden.max_abs_error,
            task=golden.task,
        ),
        sizes=Sizes(
            wire_bytes=sum(chunk.wire_bytes for chunk in chunks.distinct_chunks(entries)),
            file_bytes=sum(entry.size_bytes for entry in entries if entry.path != GOLDEN_PATH),
            weight_bytes=description.weight_bytes,
        ),
        counts=description.counts,
        evaluation=description.evaluation,
        budget=description.budget,
        lineage=description.lineage,
        files=entries,
    )


def _archive_entries(manifest: bytes, spool: _Spool) -> Iterator[tuple[str, bytes]]:
    """Yields the entries of the archive, names rising: `chunks/...` come before `manifest.json`."""
    for sha256, wire in spool.sorted():
        yield f"{CHUNK_FOLDER}{sha256}", wire
    yield MANIFEST_ENTRY, manifest
