"""Mixed precision: each layer gets the most frugal form that a budget of accuracy leaves it.

Each layer is measured alone in each form (`layer_sensitivity`), which gives an order in which to
make layers more frugal (`assignment`). How far to go along that order is measured on whole
models, by bisection: single drops do not add up to that of the whole. What was chosen was
therefore within the budget as a whole, on samples of the training data.

Forms: 4-bit weights; 8 bits; float16 weights; float. Eight bits mean int8, weights and
activations, where the device runs that, the operator has such a kernel, and the layer bears it
better than weights of 4 bits with float activations; else 8-bit weights. Where time is the goal
there are int8 and float only, because weights that are turned back to float save none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, cast

import msgspec
import onnx_ir as ir

from trimtab.compress.assignment import Move, Option, assign, most_within, moves
from trimtab.compress.context import LayerForm
from trimtab.compress.dequantize import is_quantized
from trimtab.compress.layer_sensitivity import (
    NAMES,
    Assembler,
    Assignment,
    Effect,
    Form,
    Sensitivity,
    fits_float16,
    has_int8_form,
    measure,
)
from trimtab.compress.validation import Validation
from trimtab.compress.weights import Weight, require_weights
from trimtab.errors import DataError, ModelError
from trimtab.graph.timing import time_graphs
from trimtab.progress import report
from trimtab_agent.contract.profile import Profile

if TYPE_CHECKING:
    from trimtab.compress.context import Context

_SCANNED_SHARE = 4
"""Single layers are measured on a quarter of the samples: there are many, and they are only
compared with each other."""
_TIMED_AT_ONCE = 8
_LEAST_US = 1e-3


class MixedPrecision(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How much accuracy may be spent, and on what.

    Attributes:
        max_drop: By how much the task's own figure may fall: its mean over `folds` parts, plus
            one standard error. Without labels, by how much the agreement with the float model
            may.
        goal: What is to become least: the stored weights, or the time that ONNX Runtime takes on
            this machine.
        samples: Training samples that models are measured on.
        folds: Into how many parts they are split.
        calibration_samples: Samples to measure the ranges of activations on.
    """

    max_drop: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    goal: Literal["size", "time"] = "size"
    samples: Annotated[int, msgspec.Meta(ge=8, le=65536)] = 512
    folds: Annotated[int, msgspec.Meta(ge=2, le=64)] = 4
    calibration_samples: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256


def apply(model: ir.Model, step: MixedPrecision, context: Context) -> ir.Model:
    """Gives each layer a form. Interrupted, the best that kept the budget is kept.

    Args:
        model: A cleaned float model. It is not changed.
        step: The budget and the goal.
        context: Its data set gives samples, its profile says whether anything runs int8.

    Returns:
        A new model; the float one itself where no layer may have another form.

    Raises:
        DataError: There is no data, or labels leave open what the task is.
        ModelError: The model is quantized already, or has no float weights.
    """
    weights = _check(model, context)
    assert context.dataset is not None, "checked above"
    forms = {weight.name: _forms(model, weight, context.profile, step.goal) for weight in weights}
    assembler = Assembler(model, weights, context, calibration_samples=step.calibration_samples)
    validate = partial(Validation, model, context.dataset, folds=step.folds, seed=context.seed)
    scanned = validate(samples=-(-step.samples // _SCANNED_SHARE))
    layers = measure(model, forms, assembler, scanned)
    saved_us = _time_layers(assembler, layers, scanned, context) if step.goal == "time" else None
    path = moves({layer.layer: _options(layer, saved_us) for layer in layers})
    search = _Search(assembler, validate(samples=step.samples), path, step.max_drop, context)
    count = search.most()
    if saved_us is not None:
        saving = sum(saved_us[move.layer] > 0 for move in path[:count])
        count = _fastest(search, {0, saving, count}, scanned, context)
    context.layer_forms.extend(_forms_of(layers, assign(path, count), saved_us))
    for line in context.layer_forms:
        context.log(_describe(line))
    context.log(f"mixed_precision: {search.verdict(count)}")
    return search.model(count)


@dataclass
class _Search:
    """Looks along an order of moves for the last model within the budget.

    Attributes:
        assembler: Makes the models.
        validation: Measures them.
        path: The moves.
        max_drop: The budget.
        context: Keeps the best so far, and takes lines.
        drops: What was measured, by how many moves were made.
    """

    assembler: Assembler
    validation: Validation
    path: Sequence[Move]
    max_drop: float
    context: Context
    drops: dict[int, float] = field(default_factory=dict)

    def most(self) -> int:
        """Returns how many moves the budget allows."""
        return most_within(len(self.path), self._within)

    def model(self, count: int) -> ir.Model:
        """Returns the model after the first moves."""
        return self.assembler.assemble(cast("Assignment", assign(self.path, count)))

    def verdict(self, count: int) -> str:
        """Says what the chosen model loses, and what stopped the search there."""
        made = f"{count} of {len(self.path)} moves lose {self.drops.get(count, 0.0):.2%}"
        over = self.drops.get(count + 1)
        if count == len(self.path):
            return f"{made}, within {self.max_drop:.2%}; no layer can save more"
        if over is None:
            return f"{made}; more of them take longer here"
        following = self.path[count]
        return (
            f"{made}, within {self.max_drop:.2%}; the next, {following.layer} in "
            f"{NAMES[cast('Form', following.form)]}, would lose {over:.2%}"
        )

    def _within(self, count: int) -> bool:
        model = self.model(count)
        drop = self.drops[count] = self.validation.drop(model)
        self.context.log(f"mixed_precision: {count} of {len(self.path)} moves lose {drop:.2%}")
        kept = drop <= self.max_drop
        if kept:
            self.context.kept.model = model  # what Ctrl-C leaves
        return kept


def _check(model: ir.Model, context: Context) -> list[Weight]:
    if context.dataset is None:
        raise DataError(
            "mixed_precision: what a form costs is measured on data and there is none; give a "
            "data file with --data (labels are not needed)"
        )
    if is_quantized(model):
        raise ModelError("mixed_precision: the model is quantized already; give the float model")
    return require_weights(model, "mixed_precision", tables=True)


def _forms(
    model: ir.Model, weight: Weight, profile: Profile, goal: Literal["size", "time"]
) -> tuple[Form, ...]:
    """Returns what a layer may become besides float."""
    runs_int8 = any("int8" in runtime.dtypes for runtime in profile.runtimes)
    int8: tuple[Form, ...] = ("int8",) if runs_int8 and has_int8_form(model, weight) else ()
    if goal == "time":
        return int8
    half: tuple[Form, ...] = ("float16",) if fits_float16(weight) else ()
    return (*half, *int8, "weights8", "weights4")


def _options(layer: Sensitivity, saved_us: Mapping[str, float] | None) -> list[Option]:
    """Returns the forms to choose from, with what they save in the unit of the goal."""
    effects = {effect.form: effect for effect in layer.effects}
    if saved_us is not None:
        # What measured as no faster comes last: it may be noise, and the whole is measured again.
        saved = max(saved_us.get(layer.layer, 0.0), _LEAST_US)
        return [_option(effect, saved) for effect in effects.values()]
    if "int8" in effects:
        bears = effects["int8"].distortion <= effects["weights4"].distortion
        del effects["weights8" if bears else "int8"]
    return [_option(effect, effect.saved_bytes) for effect in effects.values()]


def _option(effect: Effect, saved: float) -> Option:
    return Option(form=effect.form, saved=saved, distortion=effect.distortion)


def _time_layers(
    assembler: Assembler, layers: Sequence[Sensitivity], validation: Validation, context: Context
) -> dict[str, float]:
    """Returns what each layer's int8 saves in microseconds, measured on whole models.

    Each layer in turn is given back to float while all others are int8: alone in int8 it would
    pay for turning its input to codes and back, which neighbours in int8 share.
    """
    names = [layer.layer for layer in layers if layer.effects]
    everywhere: dict[str, Form] = dict.fromkeys(names, "int8")
    saved: dict[str, float] = {}
    for start in range(0, len(names), _TIMED_AT_ONCE):
        report("timing layers", start, len(names))
        turn = names[start : start + _TIMED_AT_ONCE]
        without = [{k: v for k, v in everywhere.items() if k != name} for name in turn]
        models = [assembler.assemble(each, draft=True) for each in (everywhere, *without)]
        whole, *given_back = time_graphs(models, validation.inputs, threads=context.profile.threads)
        saved |= {name: us - whole for name, us in zip(turn, given_back, strict=True)}
    report("timing layers", len(names), len(names))
    return saved


def _fastest(
    search: _Search, counts: Collection[int], validation: Validation, context: Context
) -> int:
    """Returns after how many moves a whole model is fastest, as measured side by side."""
    times_us = time_graphs(
        [search.model(count) for count in counts],
        validation.inputs,
        threads=context.profile.threads,
    )
    for count, us in zip(counts, times_us, strict=True):
        context.log(f"mixed_precision: {us:.1f} us on this machine after {count} moves")
    return min(zip(times_us, counts, strict=True))[1]


def _forms_of(
    layers: Sequence[Sensitivity], chosen: Mapping[str, str], saved_us: Mapping[str, float] | None
) -> Iterator[LayerForm]:
    """Yields the form of each layer with what it was chosen by."""
    for layer in layers:
        form = chosen.get(layer.layer, "float32")
        effect = next((each for each in layer.effects if each.form == form), None)
        if effect is None:
            yield LayerForm(layer=layer.layer, form=form)
            continue
        yield LayerForm(
            layer=layer.layer,
            form=form,
            drop=effect.drop,
            distortion=effect.distortion,
            saved_bytes=effect.saved_bytes,
            saved_us=None if saved_us is None else saved_us[layer.layer],
        )


def _describe(line: LayerForm) -> str:
    said = f"{line.layer}: {NAMES[cast('Form', line.form)]}"
    if line.distortion is None:
        return said
    saved = f"{line.saved_bytes:,} bytes"
    if line.saved_us is not None:
        saved += f" and {line.saved_us:.1f} us"
    return f"{said}, saves {saved}; alone it loses {line.drop:.2%}, error {line.distortion:.2%}"
