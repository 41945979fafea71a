"""What `trimtab compress` prints: steps, trials, files and whom they harm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trimtab.cli.output import print_table

if TYPE_CHECKING:
    from trimtab.workflow.compressed import Compressed
    from trimtab.workflow.frugal_trials import Search, Trial
    from trimtab.workflow.job import Outcome
    from trimtab.workflow.standing import Standing


def print_results(results: Sequence[Compressed], output: Path) -> None:
    """Prints what each step did, and the files with their figures."""
    if results and results[0].steps:
        typer.echo("what each step did, in ONNX Runtime on this machine:")
        _print_steps(results[0])
    print_table(
        (
            "folder",
            "wire bytes",
            "file bytes",
            "weight bytes",
            "MACs left",
            "figure",
            "value",
            "original",
            "agreement",
            "cosine",
            "time here",
            "as float",
        ),
        (
            (
                output / result.target,
                f"{result.wire_bytes:,}",
                f"{result.file_bytes:,}",
                f"{result.weight_bytes:,}",
                f"{result.counts.macs_share:.1%}",
                *_accuracy(result),
                *_beside_float(result),
            )
            for result in results
        ),
    )
    if results and results[0].evaluation is None:
        typer.echo("accuracy was not checked: there is no data (--data)")
    for result in results:
        _print_float_operators(result)
        _print_slowness(result)
        _print_harm(result)


def _print_steps(result: Compressed) -> None:
    """Prints how the model stood at the start and after each step."""
    rows: list[tuple[str, Standing, float | None]]
    rows = [("original", result.steps[0].before, None)]
    rows += [(step.technique, step.after, step.duration_s) for step in result.steps]
    print_table(
        (
            "step",
            "wire",
            "file",
            "weights",
            "peak memory",
            "MACs",
            "not zero",
            result.steps[0].before.metric or "figure",
            "agreement",
            "latency",
            "took",
        ),
        (_step_cells(name, standing, took) for name, standing, took in rows),
    )


def _step_cells(name: str, standing: Standing, duration_s: float | None) -> tuple[str, ...]:
    from trimtab.cli.progress import format_time
    from trimtab.search.units import ABSENT, show_bytes, show_us

    sizes = (
        standing.wire_bytes,
        standing.file_bytes,
        standing.weight_bytes,
        standing.peak_memory_bytes,
    )
    return (
        name,
        *(show_bytes(size) for size in sizes),
        f"{standing.macs:,}",
        f"{standing.nonzero_parameters:,}",
        ABSENT if standing.value is None else f"{standing.value:.4f}",
        ABSENT if standing.agreement is None else f"{standing.agreement:.4f}",
        show_us(standing.latency_us),
        "" if duration_s is None else format_time(duration_s),
    )


def _accuracy(result: Compressed) -> tuple[str, ...]:
    figures = result.evaluation
    if figures is None:
        return ("not checked",) * 4
    values = (figures.value, figures.reference, figures.agreement)
    return (figures.metric or "none", *("none" if v is None else f"{v:.4f}" for v in values))


def _beside_float(result: Compressed) -> tuple[str, str, str]:
    """Gives the cosine of the outputs with the original's, and the times of file and float twin."""
    from trimtab.search.units import ABSENT, show_us

    cosine = None if result.fidelity is None else result.fidelity.cosine
    speed = result.speed
    return (
        ABSENT if cosine is None else f"{cosine:.4f}",
        show_us(None if speed is None else speed.latency_us),
        show_us(None if speed is None else speed.float_latency_us),
    )


def _print_float_operators(result: Compressed) -> None:
    """Prints what stayed float in a quantized file, by reason; each by name is in the JSON."""
    by_reason: dict[str, Counter[str]] = {}
    for placed in result.float_operators or ():
        by_reason.setdefault(str(placed.reason), Counter())[placed.operator] += 1
    for reason, kinds in by_reason.items():
        names = ", ".join(
            kind if count == 1 else f"{count}x {kind}" for kind, count in kinds.items()
        )
        typer.echo(f"{result.target}: float stayed {names}: {reason}")


def _print_slowness(result: Compressed) -> None:
    """Flags a quantized file that its float twin outruns."""
    from trimtab.search.units import show_us

    speed = result.speed
    if speed is not None and speed.slower:
        typer.echo(
            f"{result.target}: the quantized file is SLOWER than the same model in float on this "
            f"machine: {show_us(speed.latency_us)} against {show_us(speed.float_latency_us)}, "
            f"{speed.ratio:.2f} times (98 % interval {speed.ratio_interval[0]:.2f} to "
            f"{speed.ratio_interval[1]:.2f})"
        )


def _print_harm(result: Compressed) -> None:
    from trimtab.evaluate.harm import describe

    harmed = result.evaluation.harmed if result.evaluation is not None else None
    for effect in harmed or ():
        typer.echo(f"{result.target} loses more than elsewhere on {describe(effect)}")


def print_search(search: Search, results: Sequence[Compressed]) -> None:
    """Prints what was tried within a budget of accuracy, what was taken, and why."""
    from trimtab.search.verdict import largest_drop

    taken = {(choice.target, choice.candidate) for choice in search.choices}
    typer.echo(
        f"tried, and measured on {search.held_back} training samples that were held back "
        f"(the drop with one standard error; the budget is {search.max_drop:.2%}):"
    )
    print_table(
        ("candidate", "target", "wire", "file", "drop", "time here", "verdict"),
        (_trial_cells(trial, (trial.target, trial.candidate) in taken) for trial in search.trials),
    )
    for choice in search.choices:
        typer.echo(f"{choice.target}: {choice.candidate}; {choice.stopped}")
    for result in results:
        drop = largest_drop(result.evaluation)
        if drop is not None and drop > search.max_drop:
            typer.echo(
                f"{result.target}: on the test samples, which the choice did not see, it loses "
                f"{drop:.2%}: more than the budget"
            )


def _trial_cells(trial: Trial, taken: bool) -> tuple[str, ...]:
    from trimtab.search.units import ABSENT, show_bytes, show_us

    return (
        trial.candidate,
        trial.target,
        show_bytes(trial.wire_bytes),
        show_bytes(trial.file_bytes),
        ABSENT if trial.drop is None else f"{trial.drop:.2%}",
        show_us(trial.latency_us),
        "taken" if taken else trial.verdict,
    )


def leave(outcome: Outcome) -> None:
    """Says what is missing, and exits with the code that tells of it."""
    for runtime, error in outcome.refused.items():
        typer.echo(f"trimtab: error: there is no {runtime} file: {error}", err=True)
    if outcome.interrupted:
        left = ", ".join(outcome.results[0].left_out)
        rest = f"; not done: {left}. The same command again goes on" if left else ""
        typer.echo(f"interrupted{rest}", err=True)
        raise typer.Exit(130)
    if outcome.refused:
        raise typer.Exit(max(error.exit_code for error in outcome.refused.values()))
