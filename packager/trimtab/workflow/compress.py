"""A recipe applied to a model and exported: one folder per target, with `compressed.json`."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.context import Context
from trimtab.compress.recipe import Recipe, StepReport, run_recipe
from trimtab.errors import ExportError, RecipeError
from trimtab.evaluate.assessment import Assessment
from trimtab.evaluate.evaluate import assess
from trimtab.evaluate.harm import forbid_harm
from trimtab.graph.count import count_model
from trimtab.package.files import write_atomically
from trimtab.package.golden import GoldenSamples, encode_golden
from trimtab.targets import Comparison, export
from trimtab.targets.gate import check_quantization, has_int8_activations, relative_limit
from trimtab.workflow.source import Source
from trimtab_agent import runtimes
from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import (
    Counts,
    Effect,
    Evaluation,
    Lineage,
    RuntimeName,
    TensorSpec,
)
from trimtab_agent.contract.profile import Profile

COMPRESSED_FILE = "compressed.json"
GOLDEN_FILE = "golden.npz"

_GATE_SAMPLES = 64
_GOLDEN_SAMPLES = (2, 16)
_GOLDEN_SHARE = 0.1
"""As many golden samples, within the bounds above, as fit into a tenth of the model's bytes: they
travel with it."""

_TOOLS = (
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "tf2onnx",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
    "numpy",
    "trimtab",
)


class StepSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What one step of the recipe did.

    Attributes:
        technique: Its name.
        macs: Multiply-accumulates before and after.
        parameters: Parameters before and after.
        nonzero_parameters: Those that are not zero.
        weight_bytes: Bytes of the weights before and after.
        duration_s: How long it took.
    """

    technique: str
    macs: tuple[int, int]
    parameters: tuple[int, int]
    nonzero_parameters: tuple[int, int]
    weight_bytes: tuple[int, int]
    duration_s: float


class Compressed(msgspec.Struct, kw_only=True, frozen=True):
    """A compressed model for one target, as `compressed.json` tells it.

    Attributes:
        format: Always 1.
        created: UTC, RFC 3339.
        profile: Id of the hardware profile.
        target: The runtime.
        model: Name of the file to load.
        files: Names of all files that belong to it.
        file_bytes: All of them together.
        weight_bytes: The weights as stored.
        counts: Multiply-accumulates and parameters, of this and of the original.
        inputs: As the runtime knows them.
        outputs: Likewise.
        threads: How many threads it gets.
        runtime_version: What it was checked with.
        comparison: The export gate's: the file against the graph that it was made from.
        evaluation: The file against the original; None without data.
        effects: What became of each class and group, if there are any.
        golden_max_abs_error: How far a device may be from `golden.npz`.
        lineage: Where it came from.
        steps: What each step did.
    """

    format: Literal[1] = 1
    created: str
    profile: str
    target: RuntimeName
    model: str
    files: tuple[str, ...]
    file_bytes: int
    weight_bytes: int
    counts: Counts
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    threads: int
    runtime_version: str
    comparison: Comparison
    evaluation: Evaluation | None
    effects: tuple[Effect, ...] | None = None
    golden_max_abs_error: float
    lineage: Lineage
    steps: tuple[StepSummary, ...]


class Compressor:
    """Applies recipes to one model. What recipes begin with in common is done once.

    Args:
        source: The model and its data.
        profile: The kind of device.
        seed: Of everything random.
        log: Takes lines that say how far things are.
    """

    def __init__(
        self, source: Source, profile: Profile, *, seed: int, log: Callable[[str], None]
    ) -> None:
        self._source = source
        self._profile = profile
        self._context = Context(
            profile=profile, dataset=source.dataset, teacher=source.model, seed=seed, log=log
        )
        self._done: dict[str, tuple[ir.Model, tuple[StepReport, ...]]] = {}

    def apply(self, recipe: Recipe) -> tuple[ir.Model, tuple[StepReport, ...]]:
        """Returns the compressed graph and what each step did.

        Raises:
            RecipeError: It forbids harm where nothing could show any.
            TrimtabError: What a technique raises.
        """
        self._check_constraints(recipe)
        model: ir.Model = self._source.model
        reports: tuple[StepReport, ...] = ()
        for count in range(1, len(recipe.steps) + 1):
            part = Recipe(steps=recipe.steps[:count])
            key = json.dumps(part.to_dict(), sort_keys=True)
            if key not in self._done:
                last = run_recipe(model, Recipe(steps=part.steps[-1:]), self._context)
                if has_int8_activations(last.model) and not has_int8_activations(model):
                    check_quantization(last.model, model, self._gate_samples)
                self._done[key] = (last.model, (*reports, *last.reports))
            model, reports = self._done[key]
        return model, reports

    @property
    def _gate_samples(self) -> tuple[NDArray[Any], ...]:
        return tuple(array[:_GATE_SAMPLES] for array in self._source.samples)

    def write(self, recipe: Recipe, target: RuntimeName, directory: Path) -> Compressed:
        """Compresses, exports and evaluates; writes everything into `directory`.

        Raises:
            RecipeError: The profile has no such runtime.
            ExportError: The exported file does not do what the graph does, or does harm that
                the recipe forbids.
            TrimtabError: What a technique raises.
        """
        permitted = [runtime.name for runtime in self._profile.runtimes]
        if target not in permitted:
            raise RecipeError(
                f"profile {self._profile.id} has no runtime {target!r}; it has "
                f"{', '.join(permitted)}"
            )
        model, reports = self.apply(recipe)
        exported = export(model, target, directory, samples=self._gate_samples)
        session = runtimes.load(target, exported.path, threads=self._profile.threads)
        assessment = self._assess(session)
        if recipe.constraints.forbid_harm and assessment is not None:
            _refuse_harm(assessment, exported.files)
        golden = self._golden(session, model, exported.file_bytes)
        compressed = Compressed(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            profile=self._profile.id,
            target=target,
            model=exported.path.name,
            files=tuple(path.name for path in exported.files),
            file_bytes=exported.file_bytes,
            weight_bytes=exported.weight_bytes,
            counts=self._counts(model),
            inputs=session.inputs,
            outputs=session.outputs,
            threads=self._profile.threads,
            runtime_version=session.version,
            comparison=exported.comparison,
            evaluation=None if assessment is None else assessment.summary(),
            effects=None if assessment is None else assessment.effects,
            golden_max_abs_error=golden.max_abs_error,
            lineage=self._lineage(recipe),
            steps=tuple(_summary(report) for report in reports),
        )
        write_atomically(directory / GOLDEN_FILE, encode_golden(golden))
        write_atomically(directory / COMPRESSED_FILE, codec.encode_pretty(compressed))
        return compressed

    def _check_constraints(self, recipe: Recipe) -> None:
        """Finds what a recipe forbids and nobody could see, before any long work."""
        dataset = self._source.dataset
        if not recipe.constraints.forbid_harm:
            return
        by_class = dataset is not None and dataset.task == "classification"
        by_group = dataset is not None and dataset.test.groups is not None
        labelled = dataset is not None and dataset.test.labels is not None
        if not (labelled and (by_class or by_group)):
            raise RecipeError(
                "the recipe has forbid_harm, but the data has neither classes nor groups to see "
                "harm by; add y_test with class numbers, or y_test and group_test"
            )

    def _assess(self, session: runtimes.Session) -> Assessment | None:
        dataset = self._source.dataset
        if dataset is None:
            return None
        assert dataset.task is not None, "load_source has settled it"
        run = partial(runtimes.run_samples, session)
        return assess(run, dataset, self._source.reference, dataset.task)

    def _golden(self, session: runtimes.Session, model: ir.Model, file_bytes: int) -> GoldenSamples:
        """Takes some samples and what the exported file answers to them."""
        samples = self._source.samples
        sample_bytes = sum(array[:1].nbytes for array in samples)
        least, most = _GOLDEN_SAMPLES
        count = min(most, max(least, int(file_bytes * _GOLDEN_SHARE / sample_bytes)))
        # Spread over the data set, which may be sorted by class.
        chosen = np.linspace(0, len(samples[0]) - 1, min(count, len(samples[0]))).astype(int)
        inputs = [array[chosen] for array in samples]
        outputs = runtimes.run_samples(session, inputs)
        largest = max(float(np.abs(array).max()) for array in outputs)
        limit = relative_limit(quantized=has_int8_activations(model)) * largest
        return GoldenSamples(inputs=inputs, outputs=outputs, max_abs_error=limit)

    def _counts(self, model: ir.Model) -> Counts:
        now, before = count_model(model), count_model(self._source.model)
        return Counts(
            macs=now.macs,
            parameters=now.parameters,
            original_macs=before.macs,
            original_parameters=before.parameters,
        )

    def _lineage(self, recipe: Recipe) -> Lineage:
        return Lineage(
            source_name=self._source.path.name,
            source_sha256=self._source.sha256,
            recipe=tuple(recipe.to_dict()["steps"]),
            seed=self._context.seed,
            tools=tool_versions(),
        )


def read_compressed(directory: Path) -> Compressed:
    """Reads the `compressed.json` of a folder that `Compressor.write` has made.

    Raises:
        RecipeError: There is none.
        FormatError: It is malformed.
    """
    path = directory / COMPRESSED_FILE
    if not path.is_file():
        raise RecipeError(f"{directory} has no {COMPRESSED_FILE}; make it with: trimtab compress")
    return codec.decode(path.read_bytes(), Compressed, what=str(path))


def _refuse_harm(assessment: Assessment, files: tuple[Path, ...]) -> None:
    """Lets no file out that does harm: it is deleted."""
    try:
        forbid_harm(assessment.effects)
    except ExportError:
        for path in files:
            path.unlink(missing_ok=True)
        raise


def _summary(report: StepReport) -> StepSummary:
    before, after = report.before, report.after
    return StepSummary(
        technique=report.step.technique,
        macs=(before.macs, after.macs),
        parameters=(before.parameters, after.parameters),
        nonzero_parameters=(before.nonzero_parameters, after.nonzero_parameters),
        weight_bytes=(before.weight_bytes, after.weight_bytes),
        duration_s=report.duration_s,
    )


def tool_versions() -> dict[str, str]:
    """Returns the versions of what a package is made with, those that are installed."""
    from importlib.metadata import PackageNotFoundError

    found: dict[str, Any] = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
