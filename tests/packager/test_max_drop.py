"""`compress --max-drop`: the most frugal file within a budget, and what it says of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import GRAPHS
from support.techniques import samples
from support.touchy_graphs import touchy
from trimtab.cli.app import main
from trimtab.compress.frugal import candidates
from trimtab.compress.recipe import parse_recipe
from trimtab.errors import DataError
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile
from trimtab.workflow.compressed import read_compressed
from trimtab.workflow.frugal_trials import Trial, why_stopped
from trimtab.workflow.job import Job
from trimtab.workflow.max_drop import compress_within
from trimtab.workflow.source import load_source

PROFILE = load_profile("generic-x86-64")


def silent(_line: str) -> None:
    pass


def make_job(folder: Path, model: ir.Model, *, labelled: bool = True) -> Job:
    """A model with data that it answers without a mistake."""
    model = clean(model)
    ir.save(model, folder / "model.onnx")
    x = samples(model, 300)[0]
    y = run_graph(model, [x])[0].argmax(axis=1)
    parts = {"x_train": x[:200], "x_test": x[200:]}
    parts |= {"y_train": y[:200], "y_test": y[200:]} if labelled else {}
    np.savez(folder / "data.npz", **parts)
    return Job(
        source=load_source(folder / "model.onnx", folder / "data.npz"),
        data=folder / "data.npz",
        profile=PROFILE,
        recipe=parse_recipe({"steps": []}, "test"),
        targets=["onnxruntime"],
        seed=0,
        output=folder / "out",
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_takes_the_smallest_file_that_keeps_the_budget(tmp_path: Path, labelled: bool) -> None:
    job = make_job(tmp_path, GRAPHS["residual"](), labelled=labelled)
    search, outcome = compress_within(job, max_drop=0.1, goal="size", log=silent)
    within = [trial for trial in search.trials if trial.verdict == "within"]
    (choice,) = search.choices
    (written,) = outcome.results
    assert written.wire_bytes == min(trial.wire_bytes or 0 for trial in within)
    assert choice.candidate in {trial.candidate for trial in within}
    assert search.held_back == 40
    assert all(trial.latency_us and trial.drop is not None for trial in within)
    assert read_compressed(job.output / "onnxruntime").wire_bytes == written.wire_bytes
    assert written.evaluation is not None
    assert written.evaluation.samples == 100


def test_a_larger_budget_never_gives_a_larger_file(tmp_path: Path) -> None:
    job = make_job(tmp_path, touchy())
    sizes = []
    for max_drop in (0.0, 0.1, 1.0):
        _, outcome = compress_within(job, max_drop=max_drop, goal="size", log=silent)
        sizes.append(outcome.results[0].wire_bytes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_float_is_written_where_nothing_else_keeps_the_budget(tmp_path: Path) -> None:
    job = make_job(tmp_path, touchy(offset=1e5))
    job = replace(job, profile=PROFILE)
    search, outcome = compress_within(job, max_drop=0.0, goal="size", log=silent)
    names = {choice.candidate for choice in search.choices}
    assert "4-bit weights loses" in search.choices[0].stopped
    assert names <= {"float", "mixed precision"}  # mixed leaves the touchy layer alone
    assert outcome.results[0].evaluation is not None
    assert outcome.results[0].evaluation.value == 1.0


def test_a_smaller_share_is_tried_where_mixed_precision_missed() -> None:
    ladder = candidates(GRAPHS["plain"](), PROFILE, max_drop=0.02, goal="size")
    names = [each.name for each in ladder]
    assert names[0] == "float"
    order = ["float16 weights", "8-bit weights", "int8", "4-bit weights"]
    assert [name for name in names if name in order] == order
    (narrower,) = [each for each in ladder if each.unless]
    assert narrower.unless == "mixed precision"
    assert narrower.recipe.steps[0].parameters.max_drop == 0.01


def test_forms_that_save_no_time_are_not_tried_for_it() -> None:
    ladder = candidates(GRAPHS["plain"](), PROFILE, max_drop=0.02, goal="time")
    assert not any(step.technique == "quantize_weights" for c in ladder for step in c.recipe.steps)


def test_time_takes_the_fastest(tmp_path: Path) -> None:
    job = make_job(tmp_path, GRAPHS["residual"]())
    search, _ = compress_within(job, max_drop=0.1, goal="time", log=silent)
    within = {t.candidate: t.latency_us or 0 for t in search.trials if t.verdict == "within"}
    assert search.choices[0].candidate == min(within, key=lambda name: within[name])


def test_an_interrupt_leaves_the_best_found(tmp_path: Path) -> None:
    job = make_job(tmp_path, GRAPHS["residual"]())

    def interrupt(line: str) -> None:
        if line == "trying mixed precision":
            raise KeyboardInterrupt

    search, outcome = compress_within(job, max_drop=0.5, goal="size", log=interrupt)
    assert outcome.interrupted
    assert search.choices[0].candidate in {"int8", "8-bit weights"}
    assert (job.output / "onnxruntime" / "compressed.json").exists()


def test_an_interrupt_before_anything_is_one(tmp_path: Path) -> None:
    job = make_job(tmp_path, GRAPHS["residual"]())

    def interrupt(line: str) -> None:
        if line == "trying float":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_within(job, max_drop=0.5, goal="size", log=interrupt)


def test_without_data_there_is_nothing_to_check_by(tmp_path: Path) -> None:
    job = make_job(tmp_path, GRAPHS["plain"]())
    job = replace(job, source=replace(job.source, dataset=None))
    with pytest.raises(DataError, match="accuracy cannot be checked without data"):
        compress_within(job, max_drop=0.5, goal="size", log=silent)


def trial(name: str, verdict: str, wire_bytes: int | None = None, **given: object) -> Trial:
    return Trial(
        candidate=name,
        target="tflite",
        verdict=verdict,  # type: ignore[arg-type]
        wire_bytes=wire_bytes,
        **given,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([trial("float", "within", 400)], "nothing that was tried is smaller"),
        ([trial("w4", "over", 50, drop=0.031)], "w4 loses 3.10%"),
        ([trial("w4", "over", 150, drop=0.031)], "nothing that was tried is smaller"),
        ([trial("w4", "refused", reason="at chance")], "w4 was refused (at chance)"),
        ([trial("w4", "within", 50)], "w4 was not let out"),
    ],
)
def test_says_what_stopped_it(others: list[Trial], reason: str) -> None:
    chosen = trial("int8", "within", 100)
    assert why_stopped(chosen, [chosen, *others], "size") == reason


@pytest.fixture
def trimtab(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    return run


def test_the_command_shows_what_it_tried(
    trimtab: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, GRAPHS["plain"]())
    options = ("--data", job.data, "--profile", "generic-x86-64", "--target", "onnxruntime")
    command = ("compress", job.source.path, *options, "-o", job.output, "--max-drop", "10")
    assert trimtab(*command) == 0
    text = capfd.readouterr().out
    assert "40 training samples that were held back" in text
    assert "taken" in text
    assert trimtab(*command, "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["search"]["max_drop"] == 0.1
    assert {trial["candidate"] for trial in told["search"]["trials"]} >= {"float", "int8"}
    assert told["results"][0]["target"] == "onnxruntime"


BAD_WISHES = {
    "with a preset": (("--max-drop", "1", "--preset", "low"), "--preset and --max-drop exclude"),
    "with a recipe": (("--max-drop", "1", "--recipe", "r.yaml"), "--recipe and --max-drop exclude"),
    "below zero": (("--max-drop", "-1"), "-1 is no number of points"),
    "above a hundred": (("--max-drop", "101"), "101 is no number of points"),
    "not a number": (("--max-drop", "nan"), "nan is no number of points"),
    "no data": (("--max-drop", "1"), "accuracy cannot be checked without data"),
    "a goal alone": (("--goal", "time"), "--goal time says what --max-drop makes least"),
}


@pytest.mark.parametrize("name", BAD_WISHES)
def test_bad_wishes_are_one_line(
    trimtab: Callable[..., int], name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options, expected = BAD_WISHES[name]
    ir.save(GRAPHS["plain"](), tmp_path / "model.onnx")
    assert trimtab("compress", tmp_path / "model.onnx", "-o", tmp_path / "out", *options) == 2
    assert expected in capfd.readouterr().err
