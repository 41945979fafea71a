"""A package brought to devices as a folder, with no broker: a USB stick, a cache in the plant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trimtab.fleet.folder import FolderResult, write_folder
from trimtab.fleet.library import adopt
from trimtab.fleet.publish import Terms, sign_assignment
from trimtab.fleet.shelf import Shelf
from trimtab.package.read import Package
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract.messages import Assignment


def release_to_folder(
    workspace: Workspace,
    package: Package,
    directory: Path,
    devices: Sequence[str],
    terms: Terms,
) -> tuple[FolderResult, list[Assignment]]:
    """Releases a package, assigns it, and writes all of it to a folder.

    The assignments are remembered: a host that serves devices puts them on its broker as well.

    Args:
        workspace: Whose keys sign.
        package: The package.
        directory: The folder.
        devices: Who shall run it; may be empty.
        terms: On what terms.

    Raises:
        CallerError: A device id cannot be used, or this version is released with other content.
        RepositoryError: The workspace lacks a key or a file.
        PackageError: The package has changed since it was opened.
        StorageError: A disk is full or refuses.
    """
    repository = workspace.repository()
    own = adopt(workspace.packages, package)
    repository.add_target(own.manifest.target_name, own.manifest_bytes)
    shelf = Shelf(workspace.database_url)
    try:
        signed = [
            sign_assignment(repository, device, own.manifest.target_name, shelf=shelf, terms=terms)
            for device in devices
        ]
    finally:
        shelf.close()
    messages = {assignment.device: message for assignment, message in signed}
    result = write_folder(directory, repository, own, messages)
    return result, [assignment for assignment, _ in signed]
