"""`compress` as a whole: what an interrupt leaves, and how the same job goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import GRAPHS, GraphBuilder
from trimtab.compress.recipe import parse_recipe
from trimtab.errors import RecipeError, UnsupportedOperatorError
from trimtab.graph.clean import clean
from trimtab.hardware import load_profile
from trimtab.workflow.compressed import COMPRESSED_FILE, read_compressed
from trimtab.workflow.job import Job, Outcome, check_writable
from trimtab.workflow.job import compress as measured_compress
from trimtab.workflow.source import load_source
from trimtab.workflow.standing import count
from trimtab.workflow.unfinished import FOLDER
from trimtab_agent.errors import StorageError

STEPS = [{"prune_weights": {"sparsity": 0.5}}, {"share_weights": {}}, {"quantize_weights": {}}]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "model.onnx"
    model = clean(GRAPHS["perceptron"]())
    ir.save(model, path)
    shape = [40, *list(model.graph.inputs[0].shape or [])[1:]]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=np.arange(40) % 5)
    return Job(
        source=load_source(path, tmp_path / "data.npz"),
        data=tmp_path / "data.npz",
        profile=load_profile("generic-x86-64"),
        recipe=parse_recipe({"steps": STEPS}, "test"),
        targets=["onnxruntime"],
        seed=0,
        output=tmp_path / "out",
    )


def compress(job: Job, *, log: Callable[[str], None]) -> Outcome:
    """Compresses without running the model between steps: that takes seconds each time."""
    return measured_compress(job, log=log, stand=count)


def interrupt_at(text: str) -> Callable[[str], None]:
    def log(line: str) -> None:
        if text in line:
            raise KeyboardInterrupt

    return log


@pytest.mark.slow
def test_each_step_is_reported_with_sizes_cost_accuracy_and_time(job: Job) -> None:
    (result,) = measured_compress(job, log=lambda _: None).results
    assert [step.technique for step in result.steps] == [next(iter(step)) for step in STEPS]
    first, last = result.steps[0], result.steps[-1]
    assert first.after.nonzero_parameters < first.before.nonzero_parameters
    for standing in (first.before, last.after):
        assert None not in (
            standing.wire_bytes,
            standing.file_bytes,
            standing.peak_memory_bytes,
            standing.latency_us,
            standing.agreement,
            standing.value,
        )
    assert first.before.agreement == 1
    assert last.after.weight_bytes < first.before.weight_bytes
    assert not (job.output / FOLDER).exists()


def test_an_interrupted_job_keeps_the_finished_steps_and_goes_on_after_them(job: Job) -> None:
    outcome = compress(job, log=interrupt_at("step 3 of 3"))
    assert outcome.interrupted
    assert [step.technique for step in outcome.results[0].steps] == [
        "prune_weights",
        "share_weights",
    ]
    assert outcome.results[0].left_out == ("quantize_weights",)
    assert read_compressed(job.output / "onnxruntime").left_out == ("quantize_weights",)
    lines: list[str] = []
    resumed = compress(job, log=lines.append)
    assert not resumed.interrupted
    assert "going on after what an earlier run has finished: prune_weights, share_weights" in lines
    whole = compress(replace(job, output=job.output.with_name("whole")), log=lambda _: None)
    a, b = (
        (folder / "onnxruntime" / "model.onnx").read_bytes()
        for folder in (job.output, job.output.with_name("whole"))
    )
    assert a == b
    assert [s.technique for s in resumed.results[0].steps] == [
        s.technique for s in whole.results[0].steps
    ]


def test_nothing_is_kept_before_the_first_step(job: Job) -> None:
    with pytest.raises(KeyboardInterrupt):
        compress(job, log=interrupt_at("step 1 of 3"))
    assert not (job.output / "onnxruntime").exists()


def test_an_interrupted_export_leaves_no_report_of_another_file(job: Job) -> None:
    compress(job, log=lambda _: None)
    report = job.output / "onnxruntime" / COMPRESSED_FILE
    assert report.exists()
    with pytest.raises(KeyboardInterrupt):
        compress(job, log=interrupt_at("exporting"))
    assert (job.output / FOLDER).exists()
    assert compress(job, log=lambda _: None).results[0].steps


@pytest.mark.parametrize("change", ["seed", "recipe"])
def test_another_job_starts_anew(job: Job, change: str) -> None:
    compress(job, log=interrupt_at("step 2 of 3"))
    other = (
        replace(job, seed=1)
        if change == "seed"
        else replace(job, recipe=parse_recipe({"steps": STEPS[1:]}, "test"))
    )
    lines: list[str] = []
    compress(other, log=lines.append)
    assert not any("going on" in line for line in lines)


def test_a_damaged_leftover_is_not_used(job: Job) -> None:
    compress(job, log=interrupt_at("step 2 of 3"))
    path = job.output / FOLDER / "finished.onnx"
    path.write_bytes(path.read_bytes()[:-5])
    lines: list[str] = []
    compress(job, log=lines.append)
    assert not any("going on" in line for line in lines)


def test_the_same_seed_gives_the_same_bytes(job: Job) -> None:
    files = []
    for name in ("a", "b"):
        compress(replace(job, output=job.output / name), log=lambda _: None)
        folder = job.output / name / "onnxruntime"
        files.append([(folder / file).read_bytes() for file in ("model.onnx", "golden.npz")])
    assert files[0] == files[1]


def test_forbidding_harm_needs_something_to_see_it_by(job: Job) -> None:
    source = replace(job.source, dataset=None)
    recipe = parse_recipe({"steps": STEPS, "forbid_harm": True}, "test")
    with pytest.raises(RecipeError, match="neither classes nor groups to see"):
        compress(replace(job, source=source, recipe=recipe), log=lambda _: None)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"output folder .*file/out"):
        check_writable(tmp_path / "file" / "out")


@pytest.mark.slow
def test_a_target_that_lacks_an_operator_keeps_no_other_from_its_file(job: Job, tmp_path) -> None:
    b = GraphBuilder(2, 4, 4)
    path = tmp_path / "sorted.onnx"
    ir.save(b.build(b.op("Det", b.op("Softmax", "x", axis=-1))), path)
    odd = replace(
        job,
        source=load_source(path, None),
        data=None,
        recipe=parse_recipe({"steps": []}, "test"),
        targets=["tflite", "onnxruntime"],
    )
    outcome = compress(odd, log=lambda _: None)
    assert [result.target for result in outcome.results] == ["onnxruntime"]
    assert "Det" in str(outcome.refused["tflite"])
    assert (odd.output / "onnxruntime" / COMPRESSED_FILE).exists()
    with pytest.raises(UnsupportedOperatorError, match="Det"):
        compress(replace(odd, targets=["tflite"]), log=lambda _: None)
