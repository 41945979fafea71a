"""A recipe gone through without its long parts, so that its faults show before hours of training.

Each step is applied with no training, a criterion that needs no gradients and few samples. What is
left changes the graph as the step itself would (layers, widths, which weights there are), and so
meets the same refusals: a layer that would be emptied, a rank above the matrix, nothing to prune.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import onnx_ir as ir

from trimtab.compress.context import Context, Kept
from trimtab.compress.recipe import Step, apply_step
from trimtab.errors import DataError

_TRAINS_ONLY = frozenset({"fine_tune", "distil"})
_ALWAYS_NEED_DATA = frozenset(
    {"fine_tune", "distil", "early_exit", "quantize_int8", "quantize_aware", "mixed_precision"}
)
_GRADIENTS = frozenset({"taylor", "obd"})
_SAMPLES = 8


def rehearse(model: ir.Model, steps: Sequence[Step], context: Context) -> None:
    """Checks all steps as far as that goes without training.

    Without data nothing is long, and only the need for data is checked. With data, a recipe
    whose long part comes last needs no rehearsal: that step's own checks come first.

    Args:
        model: The graph that the steps begin with; it is left as it is.
        steps: What is to be done to it.
        context: Gives the data and the profile.

    Raises:
        TrimtabError: What a step would raise.
    """
    if context.dataset is None:
        for index, step in enumerate(steps):
            _check_data(index, step)
        return
    long = [index for index, step in enumerate(steps) if _is_long(step)]
    if not long or long[0] == len(steps) - 1:
        return
    quiet = replace(context, log=lambda _: None, kept=Kept())
    for step in steps:
        model = _apply(model, step, quiet)


def untrained(step: Step) -> Step:
    """Returns a step that changes the graph alike, with neither training nor gradients."""
    given: dict[str, Any] = {
        field: getattr(step.parameters, field) for field in step.parameters.__struct_fields__
    }
    given |= {name: value for name, value in _QUICK.items() if name in given}
    if given.get("criterion") in _GRADIENTS:
        given["criterion"] = "l2" if step.technique == "prune_channels" else "magnitude"
    if given.get("scope") == "sensitivity":
        given["scope"] = "uniform"
    if step.technique == "factorize" and given["max_drop"] is not None:
        given |= {"max_drop": None, "energy": 0.9}
    return replace(step, parameters=type(step.parameters)(**given))


_QUICK = {
    "rounds": 1,
    "epochs_per_round": 0,
    "epochs": 0,
    "calibration_samples": _SAMPLES,
    "samples": _SAMPLES,
}


def _apply(model: ir.Model, step: Step, context: Context) -> ir.Model:
    """Does what is quick of a step."""
    if step.technique in _TRAINS_ONLY:
        return _check_training(model, step, context)
    if step.technique == "early_exit":
        from trimtab.compress.exit_points import find_points

        find_points(model, step.parameters.exits)  # type: ignore[attr-defined]
        return model
    return apply_step(model, untrained(step), context)


def _check_training(model: ir.Model, step: Step, context: Context) -> ir.Model:
    from trimtab.compress.student import make_student
    from trimtab.engine.supported import check_supported
    from trimtab.engine.train import check_trainable

    if step.technique == "distil":
        model = make_student(model, step.parameters.student, context)  # type: ignore[attr-defined]
    assert context.dataset is not None, "without data there is no rehearsal"
    check_trainable(model, len(context.dataset.train))
    check_supported(model)
    return model


def _is_long(step: Step) -> bool:
    return untrained(step) != step or step.technique in _ALWAYS_NEED_DATA - {"quantize_int8"}


def _check_data(index: int, step: Step) -> None:
    """Refuses a step that needs data where there is none."""
    parameters = msgspec.structs.asdict(step.parameters)
    needs = step.technique in _ALWAYS_NEED_DATA
    needs |= bool(parameters.get("epochs") or parameters.get("epochs_per_round"))
    needs |= parameters.get("rounding") == "gptq"
    needs |= parameters.get("criterion") in _GRADIENTS or parameters.get("scope") == "sensitivity"
    needs |= step.technique == "factorize" and parameters["max_drop"] is not None
    if needs:
        raise DataError(
            f"$.steps[{index}].{step.technique} needs data: give --data (labels are not needed), "
            "or leave out the step or the parameters that train, calibrate or measure"
        )
