"""`trimtab export` as a whole: a model written for runtimes as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from trimtab.compress.recipe import Recipe
from trimtab.targets.writing import Form
from trimtab.workflow.each_target import write_each
from trimtab.workflow.job import Outcome
from trimtab.workflow.source import Source
from trimtab.workflow.write import Applied, TargetWriter
from trimtab_agent.contract.manifest import RuntimeName
from trimtab_agent.contract.profile import Profile


def export_model(
    source: Source,
    profile: Profile,
    targets: Sequence[RuntimeName],
    output: Path,
    *,
    log: Callable[[str], None],
) -> Outcome:
    """Writes a float or QDQ model for each target, through the same gate as `compress`.

    Args:
        source: The model, and data to compare and evaluate on if there is any.
        profile: The kind of device.
        targets: The runtimes.
        output: One folder for each target is made in it, as by `compress`.
        log: Takes lines that say how far things are.

    Raises:
        RecipeError: The profile has no such runtime.
        StorageError: The output folder cannot be written to, or the disk is full.
        TrimtabError: What the first target raises if none takes the model.
    """
    writer = TargetWriter(source, profile, seed=0, log=log)
    as_it_is = Applied(model=source.model, recipe=Recipe(steps=()))
    results, refused = write_each(partial(writer.write, as_it_is), targets, output, log=log)
    return Outcome(results, refused, interrupted=False)


def with_form(profile: Profile, form: Form) -> Profile:
    """Returns a profile whose ONNX Runtime takes files of a form."""
    runtimes = (
        msgspec.structs.replace(runtime, form=form) if runtime.name == "onnxruntime" else runtime
        for runtime in profile.runtimes
    )
    return msgspec.structs.replace(profile, runtimes=tuple(runtimes))
