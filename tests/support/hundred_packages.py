"""Packages around the models of `hundred_models`: right ones, and ones with one thing changed.

A right package is made by the packager itself. What is changed afterwards is hashed and listed
anew, so that the manifest is consistent with what the package holds and can be signed: the fault
is the package maker's, not the wire's.
"""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from support.hundred_models import Array, Family, Files, Weights
from support.manifests import SmallPackage, cut
from trimtab.package.build import Base, Description, build_package
from trimtab.package.golden import GoldenSamples
from trimtab.package.read import Package, open_package
from trimtab.targets.gate import relative_limit
from trimtab_agent import runtimes
from trimtab_agent.bench.task_metric import score
from trimtab_agent.contract import codec
from trimtab_agent.contract.chunks import DEFAULT_CHUNK_BYTES
from trimtab_agent.contract.manifest import (
    Budget,
    GoldenTask,
    Lineage,
    Manifest,
    RuntimeSpec,
    TensorSpec,
)

SAMPLES = 24


@dataclass(frozen=True)
class Made:
    """A package that a packager made, and what it was made of.

    Attributes:
        package: The manifest and the chunks.
        files: The model's files.
        samples: The golden samples.
        base: The package as what deltas start from.
    """

    package: SmallPackage
    files: Files
    samples: GoldenSamples
    base: Base

    @property
    def manifest(self) -> Manifest:
        return self.package.manifest


@dataclass(frozen=True)
class Answers:
    """What a file gives for some inputs, and what its runtime says of its edges."""

    outputs: list[Array]
    inputs_told: tuple[TensorSpec, ...]
    outputs_told: tuple[TensorSpec, ...]


def answers_of(runtime: str, files: Files, inputs: Sequence[Array]) -> Answers:
    """Runs a model in this process."""
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            (Path(folder) / path).write_bytes(content)
        session = runtimes.load(runtime, Path(folder) / next(iter(files)))
        found = runtimes.run_samples(session, inputs)
        return Answers(found, session.inputs, session.outputs)


def make(
    family: Family,
    files: Files,
    rng: np.random.Generator,
    *,
    version: str,
    bases: Sequence[Base] = (),
    budget: Budget | None = None,
    name: str | None = None,
) -> Made:
    """Packs a model with golden samples, and labels where its family has a task."""
    inputs = family.sample(rng, SAMPLES)
    answers = answers_of(family.runtime, files, inputs)
    samples = _golden(family, inputs, answers.outputs, rng)
    model, size_bytes = next(iter(files)), sum(map(len, files.values()))
    with tempfile.TemporaryDirectory() as folder:
        sources = {path: Path(folder) / path for path in files}
        for path, source in sources.items():
            source.write_bytes(files[path])
        package = open_package(
            build_package(
                Path(folder),
                description=Description(
                    name=name or family.name,
                    version=version,
                    created="2026-11-22T00:00:00Z",
                    profile="generic-x86-64",
                    runtime=RuntimeSpec(name=family.runtime, model=model),  # type: ignore[arg-type]
                    inputs=answers.inputs_told,
                    outputs=answers.outputs_told,
                    weight_bytes=size_bytes,
                    budget=budget or Budget(),
                    lineage=Lineage(
                        source_name="m", source_sha256="0" * 64, recipe=(), seed=0, tools={}
                    ),
                ),
                files=sources,
                golden=samples,
                bases=bases,
                # Several chunks of a small model, and not too many of a large one.
                chunk_limit_bytes=16 * 1024 if size_bytes < 1 << 20 else DEFAULT_CHUNK_BYTES,
            )
        )
        return Made(_small(package), files, samples, package.as_base())


def _small(package: Package) -> SmallPackage:
    wire = {chunk.sha256: data for chunk, data in package.wire_chunks()}
    return SmallPackage(package.manifest, package.manifest_bytes, wire)


def _golden(
    family: Family, inputs: list[Array], outputs: list[Array], rng: np.random.Generator
) -> GoldenSamples:
    limit = relative_limit(quantized=family.rounds) * float(
        max(np.abs(array.astype(np.float64)).max() for array in outputs)
    )
    plain = GoldenSamples(inputs=inputs, outputs=outputs, max_abs_error=limit)
    if family.task is None:
        return plain
    if family.task == "rmse":
        labels = outputs[0][:, 0] + rng.normal(0, 0.05, len(outputs[0])).astype(np.float32)
        value = score("rmse", outputs[0], labels, threshold=None)
        worst = value + 0.05 * float(labels.std()) + limit
    else:
        labels = outputs[0].argmax(axis=1)
        mistaken = rng.random(len(labels)) < 0.1
        labels = np.where(mistaken, (labels + 1) % outputs[0].shape[1], labels)
        value = score("top1", outputs[0], labels, threshold=None)
        worst = value - max(0.05, 3 / len(labels))
    task = GoldenTask(metric=family.task, value=value, limit=worst)
    return replace(plain, labels=labels, task=task)


def edit(package: SmallPackage, **changes: Any) -> SmallPackage:
    """Changes fields of the manifest."""
    manifest = msgspec.structs.replace(package.manifest, **changes)
    return SmallPackage(manifest, codec.encode(manifest), package.wire)


def raw_edit(package: SmallPackage, change: Callable[[dict[str, Any]], None]) -> SmallPackage:
    """Changes the manifest's JSON, also to what `Manifest` cannot hold."""
    fields = msgspec.json.decode(package.manifest_bytes)
    change(fields)
    return SmallPackage(package.manifest, msgspec.json.encode(fields), package.wire)


def with_file(package: SmallPackage, path: str, content: bytes) -> SmallPackage:
    """Puts other content into the place of a file."""
    entry, wire = cut(path, content, chunk_bytes=16 * 1024)
    files = tuple(entry if file.path == path else file for file in package.manifest.files)
    changed = edit(package, files=files)
    return SmallPackage(changed.manifest, changed.manifest_bytes, package.wire | wire)


def with_model(made: Made, files: Files) -> SmallPackage:
    """Puts other model files into a package; its golden samples stay those of the right model."""
    return functools.reduce(lambda so_far, entry: with_file(so_far, *entry), files.items(),
                            made.package)  # fmt: skip


def with_golden(made: Made, arrays: dict[str, Array]) -> SmallPackage:
    """Puts other golden samples into a package."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return with_file(made.package, made.manifest.golden.path, stream.getvalue())


def is_wrong(family: Family, made: Made, weights: Weights | Files) -> bool:
    """Whether these weights, or files, answer otherwise than the package promises.

    A change within the tolerance is one that the package says to accept.
    """
    files = weights if isinstance(next(iter(weights.values())), bytes) else family.write(weights)
    try:
        found = answers_of(family.runtime, files, made.samples.inputs).outputs
    except runtimes.base.CallerError:
        return True
    pairs = zip(found, made.samples.outputs, strict=True)
    return any(
        one.shape != other.shape
        or not np.abs(one.astype(float) - other.astype(float)).max()
        <= 1.5 * made.samples.max_abs_error
        for one, other in pairs
    )
