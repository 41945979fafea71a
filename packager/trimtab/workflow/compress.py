"""A recipe applied to a model and exported: one folder per target, with `compressed.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.context import Context
from trimtab.compress.recipe import Recipe, Step, run_recipe
from trimtab.compress.rehearsal import rehearse
from trimtab.errors import ExportError, RecipeError
from trimtab.evaluate.assessment import Assessment
from trimtab.evaluate.evaluate import assess
from trimtab.evaluate.harm import forbid_harm
from trimtab.graph.count import count_model
from trimtab.graph.precision import has_integer_activations
from trimtab.package.files import write_atomically
from trimtab.package.golden import GoldenSamples, encode_golden
from trimtab.package.wire import wire_bytes
from trimtab.progress import report
from trimtab.targets import export
from trimtab.targets.gate import check_quantization, relative_limit
from trimtab.targets.writing import WriteRequest
from trimtab.workflow.compressed import COMPRESSED_FILE, GOLDEN_FILE, Compressed, tool_versions
from trimtab.workflow.source import Source
from trimtab.workflow.standing import Standing, StepSummary, count
from trimtab.workflow.unfinished import Unfinished
from trimtab_agent import runtimes
from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import Counts, Lineage, RuntimeName
from trimtab_agent.contract.profile import Profile
from trimtab_agent.durable import storage_errors

_GATE_SAMPLES = 64
_GOLDEN_SAMPLES = (2, 16)
_GOLDEN_SHARE = 0.1
"""As many golden samples, within the bounds above, as fit into a tenth of the model's bytes: they
travel with it."""


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


class Compressor:
    """Applies recipes to one model. What recipes begin with in common is done once.

    Args:
        source: The model and its data.
        profile: The kind of device.
        seed: Of everything random.
        log: Takes lines that say how far things are.
        unfinished: Where finished steps are kept for a later run; None to keep them in memory.
        stand: Says how a graph stands between two steps, for the report.
    """

    def __init__(
        self,
        source: Source,
        profile: Profile,
        *,
        seed: int,
        log: Callable[[str], None],
        unfinished: Unfinished | None = None,
        stand: Callable[[ir.Model], Standing] = count,
    ) -> None:
        self._source = source
        self._profile = profile
        self._context = Context(
            profile=profile, dataset=source.dataset, teacher=source.model, seed=seed, log=log
        )
        self._unfinished = unfinished
        self._stand = stand
        self._done: dict[str, Applied] = {}
        self._begun = time.monotonic()

    def apply(self, recipe: Recipe) -> Applied:
        """Returns the compressed graph and what each step did.

        Raises:
            RecipeError: It forbids harm where nothing could show any.
            TrimtabError: What a technique raises. What can be seen without training is seen
                before any.
            KeyboardInterrupt: See `best_so_far`.
        """
        self._check_constraints(recipe)
        applied = self._begin(recipe)
        rehearse(applied.model, recipe.steps[len(applied.steps) :], self._context)
        for number, step in enumerate(recipe.steps, start=1):
            if number <= len(applied.steps):
                continue
            key = _key(recipe, number)
            if key not in self._done:
                self._context.log(f"step {number} of {len(recipe.steps)}: {step.technique}")
                self._context.kept.model = None
                self._done[key] = self._step(applied, recipe, step)
            applied = self._done[key]
        return replace(applied, recipe=recipe)

    def best_so_far(self, recipe: Recipe) -> Applied | None:
        """Returns what an interrupted `apply` has come to; None if no step was done.

        That is the model after the last finished step. If the interrupted step was training, it
        is the best epoch's model.
        """
        applied = self._begin(recipe)
        done, left = len(applied.steps), recipe.steps[len(applied.steps) :]
        if self._context.kept.model is not None and left:
            took_s = time.monotonic() - self._begun
            summary = self._summary(applied, left[0], self._context.kept.model, took_s)
            applied = replace(
                applied, model=self._context.kept.model, steps=(*applied.steps, summary)
            )
        if not applied.steps:
            return None
        return replace(
            applied,
            recipe=replace(recipe, steps=recipe.steps[: len(applied.steps)]),
            left_out=tuple(step.technique for step in recipe.steps[done:]),
        )

    def _begin(self, recipe: Recipe) -> Applied:
        """Returns as much of a recipe as is done already, in this run or an earlier one."""
        for number in range(len(recipe.steps), 0, -1):
            if (key := _key(recipe, number)) in self._done:
                return self._done[key]
        found = None if self._unfinished is None else self._unfinished.load(recipe)
        if found is None:
            return Applied(model=self._source.model, recipe=Recipe(steps=()))
        model, steps = found
        names = ", ".join(step.technique for step in steps)
        self._context.log(f"going on after what an earlier run has finished: {names}")
        applied = Applied(model=model, recipe=recipe, steps=steps)
        self._done[_key(recipe, len(steps))] = applied
        return applied

    def _step(self, applied: Applied, recipe: Recipe, step: Step) -> Applied:
        """Applies one step and keeps what came of it."""
        self._begun = time.monotonic()
        model = run_recipe(applied.model, Recipe(steps=(step,)), self._context).model
        if has_integer_activations(model) and not has_integer_activations(applied.model):
            check_quantization(model, applied.model, self._gate_samples)
        summary = self._summary(applied, step, model, time.monotonic() - self._begun)
        result = replace(applied, model=model, steps=(*applied.steps, summary))
        if self._unfinished is not None:
            self._unfinished.save(model, recipe, result.steps)
            self._done.clear()  # one recipe is run: what is behind is not needed in memory
        return result

    def _summary(
        self, applied: Applied, step: Step, model: ir.Model, duration_s: float
    ) -> StepSummary:
        before = applied.steps[-1].after if applied.steps else self._original
        after = self._stand(model)
        return StepSummary(
            technique=step.technique, before=before, after=after, duration_s=duration_s
        )

    @cached_property
    def _original(self) -> Standing:
        return self._stand(self._source.model)

    @property
    def _gate_samples(self) -> tuple[NDArray[Any], ...]:
        return tuple(array[:_GATE_SAMPLES] for array in self._source.samples)

    def write(self, applied: Applied, target: RuntimeName, directory: Path) -> Compressed:
        """Exports and evaluates a compressed graph; writes everything into `directory`.

        Raises:
            RecipeError: The profile has no such runtime.
            ExportError: The exported file does not do what the graph does, or does harm that
                the recipe forbids.
            StorageError: The disk has no room or refuses a write.
        """
        permitted = [runtime.name for runtime in self._profile.runtimes]
        if target not in permitted:
            raise RecipeError(
                f"profile {self._profile.id} has no runtime {target!r}; it has "
                f"{', '.join(permitted)}"
            )
        labels = None if self._source.dataset is None else self._source.dataset.class_names
        with storage_errors(f"writing into {directory}"):
            # What an earlier run has left there no longer describes the files.
            (directory / COMPRESSED_FILE).unlink(missing_ok=True)
            exported = export(
                applied.model,
                target,
                directory,
                samples=self._gate_samples,
                sized=self._source.dataset is not None,
                request=WriteRequest(labels=labels),
            )
        session = runtimes.load(
            target, exported.path, threads=self._profile.threads, options=exported.options
        )
        assessment = self._assess(session)
        if applied.recipe.constraints.forbid_harm and assessment is not None:
            _refuse_harm(assessment, exported.files)
        golden = self._golden(session, applied.model, exported.file_bytes)
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
            inputs=session.inputs,
            outputs=session.outputs,
            labels=labels,
            threads=self._profile.threads,
            options=exported.options,
            runtime_version=session.version,
            comparison=exported.comparison,
            evaluation=None if assessment is None else assessment.summary(),
            effects=None if assessment is None else assessment.effects,
            golden_max_abs_error=golden.max_abs_error,
            lineage=self._lineage(applied.recipe),
            steps=applied.steps,
            left_out=applied.left_out,
        )
        write_atomically(directory / GOLDEN_FILE, encode_golden(golden))
        write_atomically(directory / COMPRESSED_FILE, codec.encode_pretty(compressed))
        return compressed

    def _check_constraints(self, recipe: Recipe) -> None:
        """Finds what a recipe forbids and nobody could see, before any long work."""
        if recipe.constraints.forbid_harm:
            check_harm_visible(self._source)

    def _assess(self, session: runtimes.Session) -> Assessment | None:
        dataset = self._source.dataset
        if dataset is None:
            return None
        assert dataset.task is not None, "load_source has settled it"
        run = partial(runtimes.run_samples, session)
        return assess(
            run,
            dataset,
            self._source.reference,
            dataset.task,
            progress=partial(report, "evaluating"),
        )

    def _golden(self, session: runtimes.Session, model: ir.Model, file_bytes: int) -> GoldenSamples:
        """Takes some samples and what the exported file answers to them."""
        samples = self._source.samples
        sample_bytes = sum(array[:1].nbytes for array in samples)
        least, most = _GOLDEN_SAMPLES
        wanted = min(most, max(least, int(file_bytes * _GOLDEN_SHARE / sample_bytes)))
        # Spread over the data set, which may be sorted by class.
        chosen = np.linspace(0, len(samples[0]) - 1, min(wanted, len(samples[0]))).astype(int)
        inputs = [array[chosen] for array in samples]
        outputs = runtimes.run_samples(session, inputs)
        largest = max(float(np.abs(array).max()) for array in outputs)
        limit = relative_limit(quantized=has_integer_activations(model)) * largest
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


def check_harm_visible(source: Source) -> None:
    """Checks that harm, if it must not be done, could be seen at all.

    Raises:
        RecipeError: The data has neither classes nor groups, or no labels.
    """
    dataset = source.dataset
    by_class = dataset is not None and dataset.task == "classification"
    by_group = dataset is not None and dataset.test.groups is not None
    labelled = dataset is not None and dataset.test.labels is not None
    if not (labelled and (by_class or by_group)):
        raise RecipeError(
            "harm is forbidden (forbid_harm), but the data has neither classes nor groups to see "
            "it by; add y_test with class numbers, or y_test and group_test"
        )


def _key(recipe: Recipe, count: int) -> str:
    """Returns what tells apart the first steps of recipes."""
    return json.dumps(Recipe(steps=recipe.steps[:count]).to_dict()["steps"], sort_keys=True)


def _refuse_harm(assessment: Assessment, files: tuple[Path, ...]) -> None:
    """Lets no file out that does harm: it is deleted."""
    try:
        forbid_harm(assessment.effects)
    except ExportError:
        for path in files:
            path.unlink(missing_ok=True)
        raise
