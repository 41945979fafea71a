"""Recipes: which techniques to apply to a model, in which order, with which parameters.

    steps:
      - prune_channels: {macs: 0.5}
      - fine_tune: {epochs: 5}
      - quantize_int8: {calibration_samples: 256}

A technique is a module with a msgspec Struct for its parameters and a function
`apply(model, parameters, context) -> model` that leaves its input as it is. To add one, add a line
to `TECHNIQUES`. A module is imported when a recipe names it; what is heavy (TensorFlow) it imports
inside `apply`, so that a recipe is checked at once.
"""

from __future__ import annotations

import difflib
import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import onnx_ir as ir

from trimtab.compress.context import Context
from trimtab.compress.dequantize import is_quantized
from trimtab.errors import ModelError, RecipeError, UnsupportedOperatorError
from trimtab.graph.count import ModelCount, count_model
from trimtab.yaml_text import decode_yaml
from trimtab_agent.errors import FormatError

TECHNIQUES: Mapping[str, tuple[str, str]] = {
    "prune_channels": ("trimtab.compress.prune", "PruneChannels"),
    "factorize": ("trimtab.compress.factorize", "Factorize"),
    "fine_tune": ("trimtab.compress.fine_tune", "FineTune"),
    "distil": ("trimtab.compress.distil", "Distil"),
    "early_exit": ("trimtab.compress.early_exit", "EarlyExit"),
    "quantize_int8": ("trimtab.compress.quantize", "QuantizeInt8"),
    "quantize_aware": ("trimtab.compress.quantize_aware", "QuantizeAware"),
    "prune_weights": ("trimtab.compress.prune_weights", "PruneWeights"),
    "share_weights": ("trimtab.compress.share_weights", "ShareWeights"),
    "quantize_weights": ("trimtab.compress.quantize_weights", "QuantizeWeights"),
    "mixed_precision": ("trimtab.compress.mixed_precision", "MixedPrecision"),
    "quantize_dynamic": ("trimtab.compress.quantize_dynamic", "QuantizeDynamic"),
    "quantize_int16": ("trimtab.compress.quantize_int16", "QuantizeInt16"),
    "cast_weights": ("trimtab.compress.cast_weights", "CastWeights"),
    "dequantize": ("trimtab.compress.dequantize", "Dequantize"),
}
"""By its name in recipes: the module and the name of its Struct."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One technique with its parameters, which are an instance of the technique's Struct."""

    technique: str
    parameters: msgspec.Struct


class Constraints(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What a compressed model must keep to, or it is refused. They stand beside `steps`.

    Attributes:
        forbid_harm: No class and no group may lose significantly more than the rest.
    """

    forbid_harm: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps in the order in which they are applied; with none the model stays as it is."""

    steps: tuple[Step, ...]
    constraints: Constraints = field(default_factory=Constraints)

    def to_dict(self) -> dict[str, Any]:
        """Return what `parse_recipe` reads, with every parameter spelled out."""
        return {
            "steps": [{s.technique: msgspec.to_builtins(s.parameters)} for s in self.steps],
            **msgspec.to_builtins(self.constraints),
        }


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did.

    Attributes:
        step: The step.
        before: Parameters and multiply-accumulates before it.
        after: The same after it.
        duration_s: How long it took, in seconds.
    """

    step: Step
    before: ModelCount
    after: ModelCount
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """The compressed model and a report for each step."""

    model: ir.Model
    reports: tuple[StepReport, ...]


def parse_recipe(source: str | Mapping[str, Any], what: str) -> Recipe:
    """Read and check a recipe.

    Args:
        source: YAML, or what it decodes to.
        what: Where it comes from, such as the file's name; messages begin with it.

    Raises:
        RecipeError: It is no YAML, or not of this form, names a technique that does not exist, or
            gives one parameters that it does not take. The message says where.
    """
    if isinstance(source, str):
        try:
            source = cast("Mapping[str, Any]", decode_yaml(source, object))
        except FormatError as error:
            raise RecipeError(f"{what}: no YAML: {error}") from error
    if not isinstance(source, Mapping) or not isinstance(source.get("steps"), list | tuple):
        raise RecipeError(f"{what}: $: a recipe is a mapping with a list of `steps`")
    return Recipe(
        constraints=_parse_constraints(source, what),
        steps=tuple(
            _parse_step(step, f"{what}: $.steps[{index}]")
            for index, step in enumerate(source["steps"])
        ),
    )


def run_recipe(model: ir.Model, recipe: Recipe, context: Context) -> RecipeResult:
    """Apply the steps one after another.

    Args:
        model: A cleaned float model. It is left as it is.
        recipe: The steps.
        context: What they may use.

    Raises:
        TrimtabError: What a technique raises.
    """
    reports = []
    after = count_model(model)
    for step in recipe.steps:
        before, start = after, time.monotonic()
        context.log(f"{step.technique}: {msgspec.json.encode(step.parameters).decode()}")
        model = apply_step(model, step, context)
        after = count_model(model)
        duration_s = time.monotonic() - start
        reports.append(StepReport(step=step, before=before, after=after, duration_s=duration_s))
    return RecipeResult(model=model, reports=tuple(reports))


def apply_step(model: ir.Model, step: Step, context: Context) -> ir.Model:
    """Apply one step.

    Raises:
        TrimtabError: What the technique raises. If it is one for float models and the model is
            quantized, the message says the way out.
    """
    technique = importlib.import_module(TECHNIQUES[step.technique][0])
    try:
        result: ir.Model = technique.apply(model, step.parameters, context)
    except (ModelError, RecipeError) as error:
        if isinstance(error, UnsupportedOperatorError) or not is_quantized(model):
            raise
        raise ModelError(
            f"{error}. The model is quantized at this step: put the step before the quantization, "
            "or `dequantize: {}` before the step"
        ) from error
    return result


def _parse_constraints(source: Mapping[str, Any], what: str) -> Constraints:
    """Read what stands beside the steps."""
    given = {key: value for key, value in source.items() if key != "steps"}
    known = [each.encode_name for each in msgspec.structs.fields(Constraints)]
    for key in given:
        if key not in known:
            raise RecipeError(f"{what}: $: unknown field `{key}`; {_names(key, ['steps', *known])}")
    try:
        return msgspec.convert(given, Constraints)
    except msgspec.ValidationError as error:
        fault, _, path = str(error).partition(" - at `$")
        raise RecipeError(f"{what}: ${path.rstrip('`')}: {fault}") from error


def _parse_step(source: object, where: str) -> Step:
    if not isinstance(source, Mapping) or len(source) != 1:
        raise RecipeError(
            f"{where}: a step is one technique with its parameters, such as "
            f"`prune_channels: {{macs: 0.5}}`; got {source!r}"
        )
    (name, values), *_ = source.items()
    if name not in TECHNIQUES:
        raise RecipeError(f"{where}: unknown technique `{name}`; {_names(name, TECHNIQUES)}")
    where = f"{where}.{name}"
    module, struct = TECHNIQUES[name]
    form = cast("type[msgspec.Struct]", getattr(importlib.import_module(module), struct))
    fields = [each.encode_name for each in msgspec.structs.fields(form)]
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where}: parameters are a mapping, {{}} for none; got {values!r}")
    for key in values:
        if key not in fields:
            raise RecipeError(f"{where}: unknown parameter `{key}`; {_names(key, fields)}")
    try:
        return Step(technique=name, parameters=msgspec.convert(values, form))
    except msgspec.ValidationError as error:
        fault, _, path = str(error).partition(" - at `$")
        raise RecipeError(f"{where}{path.rstrip('`')}: {fault}") from error


def _names(wrong: object, known: Mapping[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(str(wrong), known, n=1, cutoff=0.5)
    return (f"did you mean `{near[0]}`? " if near else "") + f"known: {', '.join(known)}"
