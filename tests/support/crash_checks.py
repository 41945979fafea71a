"""What must hold on a device's disk after a crash, and when the update has ended.

The checks read the disk with their own few lines, not with the agent's code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from support.chunk_packs import torn
from support.crash_world import Release, World
from trimtab_agent.chunk_cache import LARGEST_WASTE, scan

_TRUST_FILES = {
    *(f"trust/{role}.json" for role in ("root", "timestamp", "snapshot", "targets")),
    "trust/root_history/1.root.json",
}
RECORD_HEADER_BYTES = 40
_FIXED_FILES = _TRUST_FILES | {"lock", "state.sqlite"}


class BrokenDeviceError(AssertionError):
    """A crash has left something that must not be."""


@dataclass(frozen=True)
class Row:
    """What the database remembers of the last assignment."""

    counter: int
    step: str
    attempts: int
    settled: bool


@dataclass(frozen=True)
class Disk:
    """What a device's disk holds.

    Attributes:
        current: Manifest hash of the active version, or None.
        previous: Manifest hash of the version before, or None.
        row: What the database remembers, or None before the first assignment.
        reports: Counter and outcome of each report in the outbox, oldest first.
        torn_chunks: Chunks whose bytes are not those of their name.
    """

    current: str | None
    previous: str | None
    row: Row | None
    reports: tuple[tuple[int, str], ...]
    torn_chunks: int


def check_disk(state_dir: Path, world: World) -> Disk:
    """Checks what must hold at any moment, also right after a crash.

    Raises:
        BrokenDeviceError: `current` or `previous` is not absent and not whole, an installed version
            has another file than its manifest says, the database cannot be read, or it says that
            an update has ended that is not active.
    """
    packages = state_dir / "packages"
    _link(packages / "committed")
    for version in packages.glob("versions/*"):
        _check_version(version, world)
    row, reports = _read_database(state_dir)
    disk = Disk(
        current=_link(packages / "current"),
        previous=_link(packages / "previous"),
        row=row,
        reports=reports,
        torn_chunks=len(torn(packages / "chunks")),
    )
    _check_agreement(disk, world)
    return disk


def _check_version(directory: Path, world: World) -> None:
    """Every file hashes to what the manifest says, and there is no other."""
    manifest = directory / "manifest.json"
    if not manifest.exists() or _digest(manifest) != directory.name:
        raise BrokenDeviceError(f"{directory}: its manifest is not the one of its name")
    files = {file.path: file.sha256 for file in world.release(directory.name).manifest.files}
    found = {
        str(path.relative_to(directory)): _digest(path)
        for path in directory.rglob("*")
        if path.is_file() and path != manifest
    }
    if found != files:
        wrong = sorted(name for name in files | found if files.get(name) != found.get(name))
        raise BrokenDeviceError(f"{directory}: not whole: {', '.join(wrong)}")


def _link(path: Path) -> str | None:
    if not path.is_symlink():
        return None
    target = path.resolve()
    if not target.is_dir():
        raise BrokenDeviceError(f"{path} points to {target}, which is not there")
    return target.name


def _read_database(state_dir: Path) -> tuple[Row | None, tuple[tuple[int, str], ...]]:
    """Reads a copy, because opening the database itself would recover it."""
    with _copied_database(state_dir) as path:
        if path is None:
            return None, ()
        with contextlib.closing(sqlite3.connect(path)) as database:
            (verdict,) = database.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                raise BrokenDeviceError(f"the database is damaged: {verdict}")
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
            if not {"assignment", "outbox"} <= tables:
                return None, ()
            row = database.execute(
                "SELECT counter, step, attempts, settled FROM assignment"
            ).fetchone()
            reports = [
                json.loads(text)
                for (text,) in database.execute("SELECT report FROM outbox ORDER BY number")
            ]
    return (
        None if row is None else Row(row[0], row[1], row[2], bool(row[3])),
        tuple((report["counter"], report["outcome"]) for report in reports),
    )


@contextlib.contextmanager
def _copied_database(state_dir: Path) -> Iterator[Path | None]:
    if not (state_dir / "state.sqlite").exists():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="trimtab-crash-") as copy:
        for path in state_dir.glob("state.sqlite*"):
            if not path.name.endswith("-shm"):
                shutil.copyfile(path, Path(copy) / path.name)
        try:
            yield Path(copy) / "state.sqlite"
        except sqlite3.Error as error:
            raise BrokenDeviceError(f"the database cannot be read: {error}") from error


def _check_agreement(disk: Disk, world: World) -> None:
    """What the database says has ended well is what is active; nothing refused ever is."""
    for counter, outcome in disk.reports[-1:]:
        ended = world.releases[counter - 1]
        is_last = disk.row is not None and disk.row.counter == counter
        if is_last and (outcome == "active") != (disk.current == ended.sha256):
            raise BrokenDeviceError(f"{ended.label} is reported {outcome}; {disk.current} is on")
    for kind in ("current", "previous"):
        sha256 = getattr(disk, kind)
        if sha256 is not None and world.release(sha256).end == "refused":
            raise BrokenDeviceError(f"{kind} is the version whose golden samples fail")


def check_settled(
    state_dir: Path, world: World, ends: Sequence[str], *, powered: bool = True
) -> Disk:
    """Checks a device whose updates have all ended: the versions, the reports, and no litter.

    Args:
        state_dir: The device's disk.
        world: The story.
        ends: How each release so far has to have ended, in order: an outcome.
        powered: Whether the power was never cut. A cut may tear chunks and lose metadata that
            was fetched; both are noticed, and fetched anew, when they are used next.

    Raises:
        BrokenDeviceError: As `check_disk`; or another version is active than the story says, a
            report is missing or twice, or there is a file that should not be there.
    """
    disk = check_disk(state_dir, world)
    reports = tuple(enumerate(ends, start=1))
    if disk.reports != reports or disk.row is None or not disk.row.settled:
        raise BrokenDeviceError(f"reports {disk.reports}, expected {reports}; {disk.row}")
    active = [r for r, end in zip(world.releases, ends, strict=False) if end == "active"]
    current = active[-1].sha256 if active else None
    if disk.current != current:
        raise BrokenDeviceError(f"{disk.current} is active, expected {current}")
    _check_litter(state_dir, disk, world, powered=powered)
    if powered and disk.torn_chunks:
        raise BrokenDeviceError(f"{disk.torn_chunks} torn chunks are kept after the end")
    return disk


def _check_litter(state_dir: Path, disk: Disk, world: World, *, powered: bool) -> None:
    """The exact set of files: nothing else may lie on the disk, and nothing may be missing."""
    kept = [world.release(sha256) for sha256 in {disk.current, disk.previous} if sha256]
    known = _FIXED_FILES | {name for release in kept for name in _version_files(release)}
    known |= {f"packages/{link}" for link in ("current", "previous") if getattr(disk, link)}
    there = {
        str(path.relative_to(state_dir))
        for path in state_dir.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    packs = {name for name in there if fnmatch(name, "packages/chunks/*.pack")}
    lost = set() if powered else _TRUST_FILES
    if there - known - packs or known - there - lost:
        raise BrokenDeviceError(
            f"litter: {sorted(there - known - packs)}, missing: {sorted(known - there)}"
        )
    folders = [path for path in state_dir.rglob("*/*") if path.is_dir()]
    empty = {str(path.relative_to(state_dir)) for path in folders if not any(path.iterdir())}
    # A directory whose content a power cut took is no litter: what belongs there comes back.
    spared = {"packages/staging"} if powered else {*empty} - {n for n in empty if "staging/" in n}
    if not kept:  # a first update that was given up
        spared |= {"packages/chunks", "packages/versions"}
    if empty - spared:
        raise BrokenDeviceError(f"empty directories: {empty - spared}")
    wanted = {sha256 for release in kept for sha256 in _chunks(release)}
    for name in packs:
        _check_waste(state_dir / name, wanted)


def _check_waste(pack: Path, wanted: set[str]) -> None:
    """A pack may have a share of chunks that nobody wants any more, and no more."""
    size_bytes = pack.stat().st_size
    wasted = size_bytes - sum(
        RECORD_HEADER_BYTES + place.size_bytes for sha256, place in scan(pack) if sha256 in wanted
    )
    if wasted > LARGEST_WASTE * size_bytes:
        raise BrokenDeviceError(f"{pack}: {wasted} of {size_bytes} bytes are litter")


def _version_files(release: Release) -> Iterator[str]:
    yield f"packages/versions/{release.sha256}/manifest.json"
    for file in release.manifest.files:
        yield f"packages/versions/{release.sha256}/{file.path}"


def _chunks(release: Release) -> Iterator[str]:
    for file in release.manifest.files:
        for chunk in (*file.chunks, *(c for delta in file.deltas for c in delta.chunks)):
            yield chunk.sha256


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
