"""`trimtab compress MODEL`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import Data, ForbidHarm, Json, Profile, Seed, TaskName, parse_targets
from trimtab.cli.output import print_json, print_table
from trimtab.cli.progress import Log, progress

if TYPE_CHECKING:
    from trimtab.compress.recipe import Recipe
    from trimtab.workflow.compressed import Compressed
    from trimtab.workflow.source import Source
    from trimtab.workflow.standing import Standing
    from trimtab_agent.contract.profile import Profile as Hardware


def command(
    model: Annotated[Path, typer.Argument(help="An .onnx or .keras file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe file (YAML). Without one, and without a preset: int8 quantization if "
            "there is data, else the model as it is."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Instead of a recipe: low, medium, high or extreme, to aim at 2, 4, 8 or 16 times "
            "fewer bytes on the wire, or deep_compression."
        ),
    ] = None,
    data: Data = None,
    task: TaskName = None,
    profile: Profile = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: tflite, onnxruntime, openvino. "
            "By default all that the profile permits."
        ),
    ] = None,
    forbid_harm: ForbidHarm = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compress a model by a recipe and write it for one or more runtimes.

    Each file is run in its real runtime and compared with the original before it is let out.
    Ctrl-C writes the best model so far; the same command again goes on after the last finished
    step.

    Example: trimtab compress watch.keras --data watch.npz --recipe small.yaml -o small
    """
    from trimtab.hardware import detect_profile, load_profile
    from trimtab.workflow.job import Job, check_writable, compress
    from trimtab.workflow.source import load_source

    if preset is not None:
        _check_alone(preset, recipe)
    steps = _read_recipe(recipe, has_data=data is not None)
    chosen = detect_profile() if profile is None else load_profile(profile)
    targets = parse_targets(target, tuple(runtime.name for runtime in chosen.runtimes))
    check_writable(output)
    with progress() as log:
        source = load_source(model, data, task)
        if preset is not None:
            steps = _pick(preset, source, chosen, log)
        if forbid_harm:
            from trimtab.compress.recipe import Constraints

            steps = replace(steps, constraints=Constraints(forbid_harm=True))
        job = Job(
            source=source,
            data=data,
            profile=chosen,
            recipe=steps,
            targets=targets,
            seed=seed,
            output=output,
        )
        outcome = compress(job, log=log)
    if json:
        print_json(outcome.results)
    else:
        _print(outcome.results, output)
    for runtime, error in outcome.refused.items():
        typer.echo(f"trimtab: error: there is no {runtime} file: {error}", err=True)
    if outcome.interrupted:
        left = ", ".join(outcome.results[0].left_out)
        typer.echo(f"interrupted; not done: {left}. The same command again goes on", err=True)
        raise typer.Exit(130)
    if outcome.refused:
        raise typer.Exit(max(error.exit_code for error in outcome.refused.values()))


def _check_alone(preset: str, recipe: Path | None) -> None:
    """Refuses a preset that is unknown or not alone, before the model is loaded."""
    from trimtab.compress.presets import PRESETS
    from trimtab.errors import RecipeError

    if recipe is not None:
        raise RecipeError("--recipe and --preset exclude each other: give one of them")
    if preset not in PRESETS:
        raise RecipeError(f"--preset: unknown preset {preset!r}; known: {', '.join(PRESETS)}")


def _pick(name: str, source: Source, profile: Hardware, log: Log) -> Recipe:
    """Picks a preset's steps, and says which they are."""
    from trimtab.compress.presets import preset
    from trimtab_agent.contract import codec

    recipe = preset(name, source.model, profile, dataset=source.dataset)
    for step in recipe.steps:
        log(f"preset {name}: {step.technique} {codec.encode(step.parameters).decode()}")
    return recipe


def _read_recipe(path: Path | None, *, has_data: bool) -> Recipe:
    from trimtab.compress.recipe import parse_recipe
    from trimtab.errors import RecipeError

    if path is None:
        return parse_recipe(
            {"steps": [{"quantize_int8": {}}] if has_data else []}, "default recipe"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    return parse_recipe(text, str(path))


def _print(results: Sequence[Compressed], output: Path) -> None:
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
        ),
        (
            (
                output / result.target,
                f"{result.wire_bytes:,}",
                f"{result.file_bytes:,}",
                f"{result.weight_bytes:,}",
                f"{result.counts.macs_share:.1%}",
                *_accuracy(result),
            )
            for result in results
        ),
    )
    if results and results[0].evaluation is None:
        typer.echo("accuracy was not checked: there is no data (--data)")
    for result in results:
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


def _print_harm(result: Compressed) -> None:
    from trimtab.evaluate.harm import describe

    harmed = result.evaluation.harmed if result.evaluation is not None else None
    for effect in harmed or ():
        typer.echo(f"{result.target} loses more than elsewhere on {describe(effect)}")
