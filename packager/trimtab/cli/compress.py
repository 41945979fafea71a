"""`trimtab compress MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import Data, Json, Profile, Seed, TaskName, parse_targets
from trimtab.cli.output import log, print_json, print_table

if TYPE_CHECKING:
    from trimtab.compress.recipe import Recipe
    from trimtab.workflow.compress import Compressed


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
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compress a model by a recipe and write it for one or more runtimes.

    Each file is run in its real runtime and compared with the original before it is let out.

    Example: trimtab compress watch.keras --data watch.npz --recipe small.yaml -o small
    """
    from trimtab.compress.presets import preset as pick
    from trimtab.hardware import detect_profile, load_profile
    from trimtab.workflow.compress import Compressor
    from trimtab.workflow.source import load_source

    chosen = detect_profile() if profile is None else load_profile(profile)
    targets = parse_targets(target, tuple(runtime.name for runtime in chosen.runtimes))
    if preset is None:
        steps = _read_recipe(recipe, has_data=data is not None)
    else:
        _check_alone(preset, recipe)
    source = load_source(model, data, task)
    if preset is not None:
        steps = pick(preset, source.model, chosen, has_data=data is not None)
    compressor = Compressor(source, chosen, seed=seed, log=log)
    compressor.apply(steps)
    results = []
    for name in targets:
        log(f"exporting for {name}")
        results.append(compressor.write(steps, name, output / name))
    if json:
        print_json(results)
        return
    _print(results, output)


def _check_alone(preset: str, recipe: Path | None) -> None:
    """Refuses a preset that is unknown or not alone, before the model is loaded."""
    from trimtab.compress.presets import PRESETS
    from trimtab.errors import RecipeError

    if recipe is not None:
        raise RecipeError("--recipe and --preset exclude each other: give one of them")
    if preset not in PRESETS:
        raise RecipeError(f"--preset: unknown preset {preset!r}; known: {', '.join(PRESETS)}")


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


def _print(results: list[Compressed], output: Path) -> None:
    print_table(
        (
            "folder",
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
