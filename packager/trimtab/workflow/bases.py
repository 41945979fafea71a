"""Which versions a new one gets deltas from: those that devices run, and the newest."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from trimtab.fleet.reports import ReportStore
from trimtab.package.read import Package, open_package, read_manifest
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract.manifest import Manifest

MAX_BASES = 8
"""Deltas are made from so many versions: each takes as long as coding the file again."""

NEWEST = 4
"""So many of the newest versions are among them: a device may have installed one, and its report
is still on the way."""


def bases_for(workspace: Workspace, *, name: str, version: str, created: str) -> list[Package]:
    """Returns the released packages of a name that devices may have, the newest first.

    A manifest is signed with its deltas and never changes, so that they must be chosen before it
    is released. A version that is released already gets the bases that it was released with:
    what devices have reported since must not make it another package.

    Args:
        workspace: The workspace: its packages, and what devices have reported.
        name: The package's name.
        version: The version that needs bases.
        created: When its model was compressed. What was compressed later is left out, so that
            the same version is made the same again.

    Raises:
        PackageError: A package is damaged.
        RepositoryError: The workspace lacks metadata.
        StorageError: The database of the reports cannot be read.
    """
    released = _released(workspace, name)
    before = {
        path: manifest
        for path, manifest in released.items()
        if manifest.version != version and manifest.created <= created
    }
    ordered = sorted(before, key=lambda path: (before[path].created, path), reverse=True)
    made = next((m for m in released.values() if m.version == version), None)
    if made is not None:
        used = {delta.base_sha256 for file in made.files for delta in file.deltas}
        chosen = [p for p in ordered if used & {file.sha256 for file in before[p].files}]
    else:
        targets = [before[path].target_name for path in ordered]
        chosen = [ordered[place] for place in choose(targets, running(workspace))]
    return [open_package(path) for path in chosen]


def choose(targets: list[str], running: Collection[str]) -> list[int]:
    """Returns the places of the bases among released versions, rising. Pure.

    Args:
        targets: The versions' target names, the newest first.
        running: Target names of what devices run.

    Returns:
        Those of the newest versions, and of those that run, as many as there may be.
    """
    newest = range(min(NEWEST, len(targets)))
    wanted = [place for place, target in enumerate(targets) if target in running]
    older = [place for place in wanted if place >= NEWEST]
    return sorted([*newest, *older[: MAX_BASES - len(newest)]])


def running(workspace: Workspace) -> set[str]:
    """Returns the target names of what devices ran when they reported last.

    Raises:
        StorageError: The database of the reports cannot be read.
    """
    store = ReportStore(workspace.database_url)
    try:
        return set(store.active().values())
    finally:
        store.close()


def packages_of(workspace: Workspace, targets: Iterable[str | None], *, name: str) -> list[Package]:
    """Returns the packages of these targets that have this name; others are left out.

    Raises:
        PackageError: A package is damaged.
        RepositoryError: The workspace lacks metadata.
    """
    wanted = set(targets)
    released = _released(workspace, name)
    return [open_package(p) for p, m in sorted(released.items()) if m.target_name in wanted]


def _released(workspace: Workspace, name: str) -> dict[Path, Manifest]:
    """Returns the manifests of the released packages of a name."""
    targets = workspace.repository().targets()
    paths = (p for p in workspace.packages.glob(f"{name}-*.trimtab") if f"{p.stem}.json" in targets)
    manifests = {path: read_manifest(path) for path in paths}
    return {path: manifest for path, manifest in manifests.items() if manifest.name == name}
