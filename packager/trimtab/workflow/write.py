"""A compressed graph written for a target: exported, checked, evaluated, described."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.dequantize import is_quantized
from trimtab.compress.recipe import Recipe
from trimtab.errors import ExportError, ModelError, RecipeError
from trimtab.evaluate.assessment import Assessment
from trimtab.evaluate.chance import refuse_chance
from trimtab.evaluate.evaluate import assess
from trimtab.evaluate.harm import forbid_harm
from trimtab.graph.count import count_model
from trimtab.graph.dequantize import dequantized
from trimtab.graph.precision import rounds_activations
from trimtab.package.files import write_atomically
from trimtab.package.golden import encode_golden
from trimtab.package.wire import wire_bytes
from trimtab.progress import report
from trimtab.targets import Comparison, Exported, export
from trimtab.targets.gate import compare, relative_limit
from trimtab.targets.operators import float_operators
from trimtab.targets.speed import Speed, compare_speed
from trimtab.targets.writing import CPU_PROVIDER, WriteRequest
from trimtab.workflow.compressed import COMPRESSED_FILE, GOLDEN_FILE, Compressed, tool_versions
from trimtab.workflow.golden import golden_samples
from trimtab.workflow.processing import declare
from trimtab.workflow.source import Source
from trimtab.workflow.standing import StepSummary
from trimtab_agent import runtimes
from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import Counts, Lineage, RuntimeName
from trimtab_agent.contract.profile import Profile
from trimtab_agent.durable import storage_errors

GATE_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A recipe's outcome.

    Attributes:
        model: The compressed graph.
        recipe: The steps that were applied, and what the result must keep to.
        steps: What each of them did.
        left_out: Techniques that an interrupt kept from being done, or done to their end.
    """

    model: ir.Model
    recipe: Recipe
    steps: tuple[StepSummary, ...] = ()
    left_out: tuple[str, ...] = ()


class TargetWriter:
    """Writes compressed graphs of one model.

    Args:
        source: The original and its data.
        profile: The kind of device.
        seed: Of everything random, for the lineage.
        log: Takes lines that say how far things are.
        compare_speed: Whether a quantized file is timed against its float twin here. A search
            that measures on a device has no use for it.
    """

    def __init__(
        self,
        source: Source,
        profile: Profile,
        *,
        seed: int,
        log: Callable[[str], None],
        compare_speed: bool = True,
    ) -> None:
        self._source = source
        self._profile = profile
        self._seed = seed
        self._log = log
        self._compare_speed = compare_speed

    def write(self, applied: Applied, target: RuntimeName, directory: Path) -> Compressed:
        """Exports and evaluates a compressed graph; writes everything into `directory`.

        Raises:
            RecipeError: The profile has no such runtime.
            ExportError: The exported file does not do what the graph does, is at chance level, or
                does harm that the recipe forbids.
            StorageError: The disk has no room or refuses a write.
        """
        permitted = [runtime.name for runtime in self._profile.runtimes]
        if target not in permitted:
            raise RecipeError(
                f"profile {self._profile.id} has no runtime {target!r}; it has "
                f"{', '.join(permitted)}"
            )
        with storage_errors(f"writing into {directory}"):
            # What an earlier run has left there no longer describes the files.
            (directory / COMPRESSED_FILE).unlink(missing_ok=True)
            exported = self._export(applied.model, target, directory)
        session = self._load(exported)
        try:
            assessment = self._assess(session, applied.recipe)
        except ExportError:
            for path in exported.files:
                path.unlink(missing_ok=True)
            raise
        golden = golden_samples(
            self._source,
            session,
            file_bytes=exported.file_bytes,
            relative_limit=relative_limit(quantized=rounds_activations(applied.model)),
            seed=self._seed,
        )
        inputs, outputs = declare(
            tuple(session.inputs), tuple(session.outputs), self._source.dataset, golden.task
        )
        compressed = Compressed(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            profile=self._profile.id,
            target=target,
            model=exported.path.name,
            files=tuple(path.name for path in exported.files),
            file_bytes=exported.file_bytes,
            weight_bytes=exported.weight_bytes,
            wire_bytes=wire_bytes(exported.files),
            counts=self._counts(applied.model),
            inputs=inputs,
            outputs=outputs,
            labels=self._labels,
            threads=self._profile.threads,
            options=exported.options,
            runtime_version=session.version,
            comparison=exported.comparison,
            fidelity=self._fidelity(session),
            speed=self._speed(applied.model, target, session),
            float_operators=float_operators(target, exported.path, applied.model),
            evaluation=None if assessment is None else assessment.summary(),
            effects=None if assessment is None else assessment.effects,
            golden_max_abs_error=golden.max_abs_error,
            golden_task=golden.task,
            lineage=self._lineage(applied.recipe),
            steps=applied.steps,
            left_out=applied.left_out,
        )
        write_atomically(directory / GOLDEN_FILE, encode_golden(golden))
        write_atomically(directory / COMPRESSED_FILE, codec.encode_pretty(compressed))
        return compressed

    @property
    def gate_samples(self) -> tuple[NDArray[Any], ...]:
        """What files are compared with their graphs on."""
        return tuple(array[:GATE_SAMPLES] for array in self._source.samples)

    @property
    def _labels(self) -> tuple[str, ...] | None:
        return None if self._source.dataset is None else self._source.dataset.class_names

    def _export(self, model: ir.Model, target: RuntimeName, directory: Path) -> Exported:
        return export(
            model,
            target,
            directory,
            samples=self.gate_samples,
            sized=self._source.dataset is not None,
            request=self._request(target),
        )

    def _request(self, target: RuntimeName) -> WriteRequest:
        entry = next(entry for entry in self._profile.runtimes if entry.name == target)
        provider = str(entry.options.get("provider", CPU_PROVIDER))
        return WriteRequest(labels=self._labels, form=entry.form, provider=provider)

    def _load(self, exported: Exported) -> runtimes.Session:
        return runtimes.load(
            exported.target,
            exported.path,
            threads=self._profile.threads,
            options=exported.options,
        )

    def _assess(self, session: runtimes.Session, recipe: Recipe) -> Assessment | None:
        """Evaluates a file, and refuses one that nobody should have.

        Raises:
            ExportError: It is at chance level, or does harm that the recipe forbids.
        """
        dataset = self._source.dataset
        if dataset is None:
            return None
        assert dataset.task is not None, "load_source has settled it"
        reference = self._source.reference
        assessment = assess(
            partial(runtimes.run_samples, session),
            dataset,
            reference,
            dataset.task,
            progress=partial(report, "evaluating"),
        )
        if recipe.constraints.forbid_harm:
            forbid_harm(assessment.effects)
        refuse_chance(assessment, dataset, reference)
        return assessment

    def _fidelity(self, session: runtimes.Session) -> Comparison | None:
        """Compares a file with the original model; None where outputs have other shapes."""
        actual = runtimes.run_samples(session, list(self.gate_samples))
        expected = [array[:GATE_SAMPLES] for array in self._source.reference]
        if [array.shape for array in actual] != [array.shape for array in expected]:
            return None
        results = [compare(one, other) for one, other in zip(actual, expected, strict=True)]
        return max(results, key=lambda result: result.relative_error)

    def _speed(
        self, model: ir.Model, target: RuntimeName, session: runtimes.Session
    ) -> Speed | None:
        """Times a quantized file against its float twin; None where there is none."""
        if not self._compare_speed or not is_quantized(model):
            return None
        self._log(f"comparing the speed of the {target} file with its float twin's")
        samples = [array[:1] for array in self.gate_samples]
        with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
            try:
                run_float = self._load(self._export(dequantized(model), target, Path(folder)))
            except (ModelError, ExportError) as error:
                # The quantized file is right; that it has no twin to compare with is no fault.
                self._log(f"the speed is not compared, there is no float twin: {error}")
                return None
            return compare_speed(
                lambda: runtimes.run_samples(session, samples),
                lambda: runtimes.run_samples(run_float, samples),
            )

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
            seed=self._seed,
            tools=tool_versions(),
        )
