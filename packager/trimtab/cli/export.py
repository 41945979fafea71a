"""`trimtab export MODEL`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import Data, Json, Profile, TaskName, parse_targets
from trimtab.cli.output import print_json
from trimtab.cli.progress import progress


class _Form(StrEnum):
    """What ONNX Runtime loads."""

    onnx = "onnx"
    ort = "ort"


def command(
    model: Annotated[
        Path, typer.Argument(help="A model, float or quantized (.onnx with QDQ pairs).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: tflite, onnxruntime, openvino. "
            "By default all that the profile permits."
        ),
    ] = None,
    form: Annotated[
        _Form | None,
        typer.Option(
            help="For ONNX Runtime: onnx, or ort for minimal builds. By default the profile's."
        ),
    ] = None,
    data: Data = None,
    task: TaskName = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Write a model for one or more runtimes as it is, without compressing it.

    Each file is run in its real runtime and compared with the model before it is let out; with
    data it is evaluated too. `trimtab package` takes the folders.

    Example: trimtab export watch.keras --target tflite,openvino -o watch
    """
    from trimtab.cli.compress_output import leave, print_results
    from trimtab.hardware import detect_profile, load_profile
    from trimtab.workflow.export import export_model, with_form
    from trimtab.workflow.job import check_writable
    from trimtab.workflow.source import load_source

    chosen = detect_profile() if profile is None else load_profile(profile)
    if form is not None:
        chosen = with_form(chosen, form.value)
    targets = parse_targets(target, tuple(runtime.name for runtime in chosen.runtimes))
    check_writable(output)
    with progress() as log:
        outcome = export_model(load_source(model, data, task), chosen, targets, output, log=log)
    if json:
        print_json(outcome.results)
    else:
        print_results(outcome.results, output)
    leave(outcome)
