"""A compressed model packed into one file, and that file released by a signature."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from trimtab.hardware import load_profile
from trimtab.package.build import Description, build_package
from trimtab.package.golden import GoldenSamples
from trimtab.package.read import Package, open_package
from trimtab.workflow.compressed import GOLDEN_FILE, Compressed, read_compressed
from trimtab.workflow.processing import read_processing
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract.manifest import Budget, Hardware, Manifest, RuntimeSpec
from trimtab_agent.errors import FormatError


@dataclass(frozen=True)
class Released:
    """A package that is signed.

    Attributes:
        path: Its file.
        manifest: What it says of itself.
    """

    path: Path
    manifest: Manifest


def release(
    directory: Path,
    workspace: Workspace,
    *,
    name: str,
    version: str,
    budget: Budget | None = None,
    bases: Sequence[Package] = (),
    processing: Path | None = None,
) -> Released:
    """Packs a folder of `trimtab compress` and signs the package's manifest.

    Args:
        directory: The folder, with `compressed.json`.
        workspace: Whose packages it joins and whose keys sign it.
        name: The package's name, the same over its versions.
        version: Its version; a released version is never changed.
        budget: What it was made to meet; written into the manifest.
        bases: Versions that devices may have; the package gets deltas from them where they pay.
        processing: A file that says what the application must do before and after the model, on
            top of what `trimtab compress` has found in the data.

    Raises:
        RecipeError: The folder holds no compressed model.
        CallerError: The name or version cannot be used, or is released with other content; or
            the processing is malformed.
        PackageError: A file of the folder is damaged.
        RepositoryError: The workspace lacks keys or metadata.
    """
    compressed = read_compressed(directory)
    if processing is not None:
        inputs, outputs = read_processing(processing, compressed.inputs, compressed.outputs)
        compressed = msgspec.structs.replace(compressed, inputs=inputs, outputs=outputs)
    path = build_package(
        workspace.packages,
        description=_description(compressed, name, version, budget or Budget()),
        files={file: directory / file for file in compressed.files},
        golden=_read_golden(directory / GOLDEN_FILE, compressed),
        bases=[base.as_base() for base in bases],
    )
    package = open_package(path)
    workspace.repository().add_target(package.manifest.target_name, package.manifest_bytes)
    return Released(path, package.manifest)


def find_package(workspace: Workspace, name_or_path: str) -> Package:
    """Opens a package by its path, or by its `<name>-<version>` in the workspace.

    Raises:
        CallerError: There is none.
        PackageError: A byte of it is not what it should be.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = workspace.packages / f"{name_or_path}.trimtab"
    return open_package(path)


def released_manifests(workspace: Workspace, targets: Iterable[str]) -> dict[str, Manifest]:
    """Returns the manifests of released packages, by their TUF target name.

    Args:
        workspace: The workspace.
        targets: Which ones; those that are not in the workspace are left out.

    Raises:
        PackageError: A package is damaged.
    """
    found = {}
    for target in targets:
        path = workspace.packages / f"{target.removesuffix('.json')}.trimtab"
        if path.is_file():
            found[target] = open_package(path).manifest
    return found


def _description(compressed: Compressed, name: str, version: str, budget: Budget) -> Description:
    profile = load_profile(compressed.profile)
    wishes = {runtime.name: runtime.options for runtime in profile.runtimes}
    return Description(
        name=name,
        version=version,
        created=compressed.created,
        profile=compressed.profile,
        hardware=Hardware(architectures=(profile.architecture,)),
        runtime=RuntimeSpec(
            name=compressed.target,
            model=compressed.model,
            threads=compressed.threads,
            # Only the device has its accelerator: the host has checked the file on the CPU.
            options={**compressed.options, **wishes.get(compressed.target, {})},
            made_with=compressed.runtime_version,
        ),
        inputs=compressed.inputs,
        outputs=compressed.outputs,
        labels=compressed.labels,
        weight_bytes=compressed.weight_bytes,
        counts=compressed.counts,
        evaluation=compressed.evaluation,
        budget=budget,
        lineage=compressed.lineage,
    )


def _read_golden(path: Path, compressed: Compressed) -> GoldenSamples:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return GoldenSamples(
                inputs=[arrays[f"in_{i}"] for i in range(len(compressed.inputs))],
                outputs=[arrays[f"out_{i}"] for i in range(len(compressed.outputs))],
                max_abs_error=compressed.golden_max_abs_error,
                labels=arrays["labels"] if compressed.golden_task is not None else None,
                task=compressed.golden_task,
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} holds no golden samples: {error}; compress again") from error
