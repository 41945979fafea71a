"""A recipe applied to a model and exported: one folder per target, with `compressed.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from trimtab.compress.context import Context
from trimtab.compress.recipe import Recipe, Step, run_recipe
from trimtab.compress.rehearsal import rehearse
from trimtab.errors import RecipeError
from trimtab.graph.precision import has_integer_activations
from trimtab.targets.gate import check_quantization
from trimtab.workflow.compressed import Compressed
from trimtab.workflow.source import Source
from trimtab.workflow.standing import Standing, StepSummary, count
from trimtab.workflow.unfinished import Unfinished
from trimtab.workflow.write import Applied, TargetWriter
from trimtab_agent.contract.manifest import RuntimeName
from trimtab_agent.contract.profile import Profile


class Compressor:
    """Applies recipes to one model. What recipes begin with in common is done once.

    Args:
        source: The model and its data.
        profile: The kind of device.
        seed: Of everything random.
        log: Takes lines that say how far things are.
        unfinished: Where finished steps are kept for a later run; None to keep them in memory.
        stand: Says how a graph stands between two steps, for the report.
        compare_speed: Whether quantized files are timed against their float twins here.
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
        compare_speed: bool = False,
    ) -> None:
        self._source = source
        if source.doubt is not None:
            log(f"warning: {source.doubt}")
        self._writer = TargetWriter(
            source, profile, seed=seed, log=log, compare_speed=compare_speed
        )
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
        self._context.layer_forms.clear()
        model = run_recipe(applied.model, Recipe(steps=(step,)), self._context).model
        if has_integer_activations(model) and not has_integer_activations(applied.model):
            check_quantization(model, applied.model, self._writer.gate_samples)
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
            technique=step.technique,
            before=before,
            after=after,
            duration_s=duration_s,
            layers=tuple(self._context.layer_forms),
        )

    @cached_property
    def _original(self) -> Standing:
        return self._stand(self._source.model)

    def write(self, applied: Applied, target: RuntimeName, directory: Path) -> Compressed:
        """Exports and evaluates a compressed graph; see `TargetWriter.write`."""
        return self._writer.write(applied, target, directory)

    def _check_constraints(self, recipe: Recipe) -> None:
        """Finds what a recipe forbids and nobody could see, before any long work."""
        if recipe.constraints.forbid_harm:
            check_harm_visible(self._source)


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
