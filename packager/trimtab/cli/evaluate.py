"""`trimtab evaluate MODEL`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import Json, RequiredData, TaskName
from trimtab.cli.output import print_json, print_table
from trimtab.cli.progress import progress

if TYPE_CHECKING:
    from trimtab.evaluate.assessment import Assessment
    from trimtab_agent.contract.manifest import Effect, Figure, Interval


def command(
    model: Annotated[
        Path, typer.Argument(help="A model file, or a folder that `trimtab compress` has written.")
    ],
    data: RequiredData,
    against: Annotated[
        Path | None, typer.Option(help="The original model, to compare with on the same samples.")
    ] = None,
    task: TaskName = None,
    json: Json = False,
) -> None:
    """Run a model over a data set: figures with 95 % intervals, and what compression has cost.

    Example: trimtab evaluate small/tflite --data watch.npz --against watch.keras
    """
    from trimtab.progress import report
    from trimtab.workflow.evaluate import evaluate_model

    with progress():
        assessment = evaluate_model(
            model, data, against=against, task=task, progress=partial(report, "evaluating")
        )
    if json:
        print_json(assessment)
        return
    typer.echo(f"{assessment.task}, {assessment.samples:,} test samples")
    if assessment.figures:
        _print_figures(assessment.figures)
    else:
        typer.echo("there are no labels: all that can be checked is agreement with the original")
    if assessment.agreement is not None:
        figure = assessment.agreement
        typer.echo(
            f"agreement with the original: {figure.name} {figure.value:.4f}, "
            f"95 % interval {_interval(figure.interval)}; "
            f"largest difference of an output {assessment.max_abs_error:.4g}"
        )
    _print_effects(assessment)


def _print_figures(figures: tuple[Figure, ...]) -> None:
    print_table(
        ("figure", "value", "95 % interval", "original", "change, 95 % interval", "p", "test"),
        (
            (
                figure.name,
                f"{figure.value:.4f}",
                _interval(figure.interval),
                "none" if figure.reference is None else f"{figure.reference:.4f}",
                _interval(figure.change_interval, signed=True),
                "none" if figure.p_value is None else f"{figure.p_value:.2g}",
                figure.test or "none",
            )
            for figure in figures
        ),
    )


def _print_effects(assessment: Assessment) -> None:
    """Prints every class and group, and names those that are harmed."""
    from trimtab.evaluate.harm import describe

    if assessment.effects is None:
        return
    print_table(
        ("", "samples", "figure", "value", "original", "change, 95 % interval", "p", "harmed"),
        (_effect_cells(effect) for effect in assessment.effects),
    )
    for effect in assessment.effects:
        if effect.harmed:
            typer.echo(f"loses more than the rest: {describe(effect)}")


def _effect_cells(effect: Effect) -> tuple[str, ...]:
    return (
        f"{effect.kind} {effect.name}",
        f"{effect.samples:,}",
        effect.metric,
        f"{effect.value:.4f}",
        f"{effect.reference:.4f}",
        _interval(effect.change_interval, signed=True),
        f"{effect.p_value:.2g}",
        "yes" if effect.harmed else "no",
    )


def _interval(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return "none"
    low, high = interval
    return f"{low:+.4f} to {high:+.4f}" if signed else f"{low:.4f} to {high:.4f}"
