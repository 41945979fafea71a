"""Which samples travel with a package, and what a device must reach on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.graphs import GRAPHS
from trimtab.compress.recipe import Recipe
from trimtab.errors import DataError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile
from trimtab.package.golden import GoldenSamples, encode_golden
from trimtab.workflow.golden import golden_samples, sample_order
from trimtab.workflow.source import Source, load_source
from trimtab.workflow.write import Applied, TargetWriter
from trimtab_agent.bench.measure import check_golden
from trimtab_agent.contract.manifest import Golden, GoldenTask, RuntimeSpec, TensorSpec
from trimtab_agent.errors import AccuracyError


def source_of(x, labels, task: str) -> Source:
    split = Split(inputs=[x], labels=labels)
    dataset = Dataset(source="test", train=split, test=split, task=task)
    return Source(Path("model"), "0" * 64, ir.Model(ir.Graph([], [], nodes=[]), ir_version=8),
                  dataset)  # fmt: skip


class Identity:
    """A model that gives back what it is given."""

    inputs = outputs = (TensorSpec(name="x", shape=(None, None), dtype="float32"),)

    def run(self, arrays):
        return [arrays[0]]


def take(x, labels, task: str, *, file_bytes: int = 10**7, seed: int = 0) -> GoldenSamples:
    return golden_samples(
        source_of(x, labels, task), Identity(), file_bytes=file_bytes, relative_limit=0.1, seed=seed
    )


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=60), seed=st.integers(0, 9))
def test_every_class_comes_once_before_any_comes_again(labels, seed):
    labels = np.array(labels)
    order = sample_order(source_of(np.ones((len(labels), 1)), labels, "classification"), seed)
    assert sorted(order) == list(range(len(labels)))
    sizes = np.bincount(labels)
    for count in range(1, len(labels) + 1):
        seen = np.bincount(labels[order[:count]], minlength=len(sizes))
        short = seen < seen.max() - 1
        assert (seen[short] == sizes[short]).all()


def test_the_seed_draws_the_samples_and_the_model_does_not():
    x = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32)
    first = take(x, x.argmax(axis=1), "classification")
    np.testing.assert_array_equal(
        first.inputs[0], take(x, x.argmax(axis=1), "classification", file_bytes=2 * 10**7).inputs[0]
    )
    other = take(x, x.argmax(axis=1), "classification", seed=1).inputs[0]
    assert not np.array_equal(first.inputs[0], other)


@pytest.mark.parametrize(
    ("width", "file_bytes", "count"),
    [
        (4, 10**6, 128),  # all that labels have use for
        (1000, 10**4, 2),  # the least (noise packs badly)
        (50, 10**4, 6),  # a quarter of a small model
        (50, 3 * 10**4, 10),  # 4 KiB
        (1000, 2 * 10**6, 26),  # a tenth
    ],
)
def test_samples_are_as_many_as_fit(width, file_bytes, count):
    x = np.random.default_rng(1).normal(size=(300, width)).astype(np.float32)
    found = take(x, np.zeros(300, int), "classification", file_bytes=file_bytes)
    assert found.count == pytest.approx(count, abs=0.1 * count)


def test_samples_that_pack_well_come_in_numbers_until_memory_is_full():
    x = np.zeros((300, 250_000), np.float32)
    assert take(x, np.zeros((300, 1)), "anomaly", file_bytes=10**6).count == 2  # 4 MiB in memory
    assert take(x[:, :2500], None, "regression").count == 16  # without labels few are enough


def test_what_a_classifier_must_reach():
    x = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    labels = np.arange(400) % 4
    labels[::10] = (labels[::10] + 1) % 4
    task = take(x, labels, "classification").task
    assert task.metric == "top1"
    assert 0.8 < task.value < 1.0
    assert task.limit == pytest.approx(task.value - 0.05)
    few = take(x[:20], labels[:20], "classification").task
    assert few.limit == pytest.approx(few.value - 3 / 20)


def test_what_other_tasks_must_reach():
    x = np.linspace(0, 1, 200, dtype=np.float32)[:, None]
    found = take(x, x + 0.5, "regression").task
    assert (found.metric, found.value) == ("rmse", pytest.approx(0.5))
    assert found.limit == pytest.approx(0.5 + 0.05 * 0.29, rel=0.02)
    single = take(x, (x[:, 0] > 0.5).astype(int), "classification").task
    assert (single.metric, single.value, single.threshold) == ("top1", 1.0, 0.5)
    scores = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    assert take(scores, scores.argmax(axis=-1)[:, None], "ctc").task is None
    assert take(x[:7], x[:7], "regression").task is None  # too few to say anything
    assert take(x, None, "regression").labels is None


def test_labels_are_written_beside_the_samples():
    x = np.zeros((8, 2), np.float32)
    task = GoldenTask(metric="top1", value=1.0, limit=0.9)
    given = {"inputs": [x], "outputs": [x], "max_abs_error": 0.1, "task": task}
    plain = encode_golden(GoldenSamples(**{**given, "task": None}))
    assert len(encode_golden(GoldenSamples(**given, labels=np.zeros(8, int)))) > len(plain)
    with pytest.raises(DataError, match="need labels for the metric top1"):
        encode_golden(GoldenSamples(**given))
    with pytest.raises(DataError, match="must lie along axis 0"):
        encode_golden(GoldenSamples(**given, labels=np.zeros(7, int)))


def test_a_device_refuses_swapped_labels_of_a_package_that_was_written(tmp_path):
    model = clean(GRAPHS["perceptron"]())
    ir.save(model, tmp_path / "model.onnx")
    shape = [120, *list(model.graph.inputs[0].shape or [])[1:]]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    labels = run_graph(model, (x,))[0].argmax(axis=1)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    source = load_source(tmp_path / "model.onnx", tmp_path / "data.npz", "classification")
    writer = TargetWriter(source, load_profile("generic-x86-64"), seed=0, log=lambda _: None)
    applied = Applied(model=source.model, recipe=Recipe(steps=()))
    written = writer.write(applied, "onnxruntime", tmp_path / "out")
    path = tmp_path / "out" / "golden.npz"
    arrays = dict(np.load(path))
    entry = Golden(
        path="golden.npz",
        count=len(arrays["labels"]),
        max_abs_error=written.golden_max_abs_error,
        task=written.golden_task,
    )
    runtime = RuntimeSpec(name="onnxruntime", model=written.model)
    model_path = tmp_path / "out" / written.model
    assert check_golden(runtime, model_path, path, entry).task.value == 1.0
    first, second = np.unique(arrays["labels"])[:2]
    swap = {first: second, second: first}
    arrays["labels"] = np.array([swap.get(label, label) for label in arrays["labels"]])
    np.savez(path, **arrays)
    with pytest.raises(AccuracyError, match="top1 on the golden samples"):
        check_golden(runtime, model_path, path, entry)
