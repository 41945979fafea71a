"""`trimtab compress MODEL`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import Data, ForbidHarm, Json, Profile, Seed, TaskName, parse_targets
from trimtab.cli.output import print_json
from trimtab.cli.progress import Log, progress

if TYPE_CHECKING:
    from trimtab.compress.recipe import Recipe
    from trimtab.workflow.frugal_trials import Search
    from trimtab.workflow.job import Job, Outcome
    from trimtab.workflow.source import Source
    from trimtab_agent.contract.profile import Profile as Hardware


class _Goal(StrEnum):
    """What `--max-drop` makes least."""

    size = "size"
    time = "time"


_Model = Annotated[Path, typer.Argument(help="An .onnx or .keras file.")]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")]
_RecipeFile = Annotated[
    Path | None,
    typer.Option(
        help="Recipe file (YAML). Without one, and without a preset: int8 quantization if "
        "there is data, else the model as it is."
    ),
]
_Preset = Annotated[
    str | None,
    typer.Option(
        help="Instead of a recipe: low, medium, high or extreme, to aim at 2, 4, 8 or 16 times "
        "fewer bytes on the wire, or deep_compression."
    ),
]
_MaxDrop = Annotated[
    float | None,
    typer.Option(
        help="Instead of a recipe: the most frugal numeric form that loses at most so many "
        "points of a hundred. Needs data; trains nothing."
    ),
]
_GoalName = Annotated[_Goal, typer.Option(help="What --max-drop makes least, on each target.")]
_Target = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated: tflite, onnxruntime, openvino. "
        "By default all that the profile permits."
    ),
]


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What is to become of the model; at most one of the first three is given."""

    recipe: Path | None
    preset: str | None
    max_drop: float | None
    goal: _Goal
    forbid_harm: bool


def command(
    model: _Model,
    output: _Output,
    recipe: _RecipeFile = None,
    preset: _Preset = None,
    max_drop: _MaxDrop = None,
    goal: _GoalName = _Goal.size,
    data: Data = None,
    task: TaskName = None,
    profile: Profile = None,
    target: _Target = None,
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
    from trimtab.cli.compress_output import leave
    from trimtab.hardware import detect_profile, load_profile
    from trimtab.workflow.job import Job, check_writable
    from trimtab.workflow.source import load_source

    wish = _Wish(
        recipe=recipe, preset=preset, max_drop=max_drop, goal=goal, forbid_harm=forbid_harm
    )
    _check(wish, has_data=data is not None)
    steps = _read_recipe(wish, has_data=data is not None)
    chosen = detect_profile() if profile is None else load_profile(profile)
    targets = parse_targets(target, tuple(runtime.name for runtime in chosen.runtimes))
    check_writable(output)
    with progress() as log:
        source = load_source(model, data, task)
        if preset is not None:
            steps = _pick(preset, source, chosen, log)
        job = Job(
            source=source,
            data=data,
            profile=chosen,
            recipe=_constrained(steps, wish),
            targets=targets,
            seed=seed,
            output=output,
        )
        search, outcome = _run(job, wish, log)
    _show(search, outcome, output, as_json=json)
    leave(outcome)


def _check(wish: _Wish, *, has_data: bool) -> None:
    """Refuses wishes that exclude each other or mean nothing, before the model is loaded."""
    from trimtab.compress.presets import PRESETS
    from trimtab.errors import DataError, RecipeError

    given = {"--recipe": wish.recipe, "--preset": wish.preset, "--max-drop": wish.max_drop}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise RecipeError(f"{' and '.join(names)} exclude each other: give one of them")
    if wish.preset is not None and wish.preset not in PRESETS:
        raise RecipeError(f"--preset: unknown preset {wish.preset!r}; known: {', '.join(PRESETS)}")
    if wish.max_drop is None:
        if wish.goal is not _Goal.size:
            raise RecipeError(f"--goal {wish.goal} says what --max-drop makes least: give that too")
        return
    if not 0 <= wish.max_drop <= 100:
        raise RecipeError(
            f"--max-drop: {wish.max_drop:g} is no number of points; give one from 0 to 100, "
            "such as 1 for one point of a hundred"
        )
    if not has_data:
        raise DataError(
            "--max-drop: accuracy cannot be checked without data; give a data file with --data "
            "(labels are not needed)"
        )


def _read_recipe(wish: _Wish, *, has_data: bool) -> Recipe:
    from trimtab.compress.recipe import parse_recipe
    from trimtab.errors import RecipeError

    if wish.recipe is None:
        quantized = has_data and wish.max_drop is None
        return parse_recipe(
            {"steps": [{"quantize_int8": {}}] if quantized else []}, "default recipe"
        )
    try:
        text = wish.recipe.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{wish.recipe} cannot be read: {error}") from error
    return parse_recipe(text, str(wish.recipe))


def _pick(name: str, source: Source, profile: Hardware, log: Log) -> Recipe:
    """Picks a preset's steps, and says which they are."""
    from trimtab.compress.presets import preset
    from trimtab_agent.contract import codec

    recipe = preset(name, source.model, profile, dataset=source.dataset)
    for step in recipe.steps:
        log(f"preset {name}: {step.technique} {codec.encode(step.parameters).decode()}")
    return recipe


def _constrained(recipe: Recipe, wish: _Wish) -> Recipe:
    from trimtab.compress.recipe import Constraints

    if not wish.forbid_harm:
        return recipe
    return replace(recipe, constraints=Constraints(forbid_harm=True))


def _run(job: Job, wish: _Wish, log: Log) -> tuple[Search | None, Outcome]:
    if wish.max_drop is None:
        from trimtab.workflow.job import compress

        return None, compress(job, log=log)
    from trimtab.workflow.max_drop import compress_within

    return compress_within(job, max_drop=wish.max_drop / 100, goal=wish.goal.value, log=log)


def _show(search: Search | None, outcome: Outcome, output: Path, *, as_json: bool) -> None:
    from trimtab.cli.compress_output import print_results, print_search

    if search is None and as_json:
        print_json(outcome.results)
    elif as_json:
        print_json({"search": search, "results": outcome.results})
    else:
        if search is not None:
            print_search(search, outcome.results)
        print_results(outcome.results, output)
