"""Tasks: each figure against brute force or by hand, and which task is detected from what."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.evaluate.data import Dataset, Split
from trimtab.evaluate.evaluate import assess
from trimtab.evaluate.tasks import check_task, detect_task
from trimtab.evaluate.tasks.anomaly import roc_auc
from trimtab.evaluate.tasks.choose import find_blank
from trimtab.evaluate.tasks.sequences import edit_distance, greedy_decode

RNG = np.random.default_rng(0)


def run(task, outputs, reference, labels, inputs=None, groups=None):
    """Assesses a model that gives `outputs`."""
    inputs = np.arange(len(outputs))[:, None] if inputs is None else inputs
    split = Split(inputs=(inputs,), labels=labels, groups=groups)
    data = Dataset(source="here", train=split, test=split)
    answers = iter([outputs[start : start + 64] for start in range(0, len(outputs), 64)])
    original = None if reference is None else [reference]
    found = assess(lambda _: [next(answers)], data, original, task)
    return found, {figure.name: figure for figure in found.figures}


def test_classification_top5_and_agreement():
    labels = RNG.integers(0, 10, 200)
    scores, reference = RNG.normal(size=(2, 200, 10))
    found, figures = run("classification", scores, reference, labels)
    best = [set(np.argsort(-row)[:5]) for row in scores]
    assert figures["top5"].value == np.mean(
        [y in five for y, five in zip(labels, best, strict=True)]
    )
    assert figures["top1"].value == np.mean(scores.argmax(1) == labels)
    assert figures["top1"].test == "mcnemar"
    assert found.agreement.value == np.mean(scores.argmax(1) == reference.argmax(1))
    assert [effect.name for effect in found.effects] == [str(k) for k in range(10)]


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_one_output_tells_two_classes_apart_as_probability_or_logit(shift):
    labels = np.arange(40) % 2
    outputs = np.where(labels, 0.9, 0.1)[:, None] if not shift else np.where(labels, 0.3, -5)
    _, figures = run("classification", outputs, None, labels)
    assert figures["top1"].value == 1


def test_regression_by_hand():
    labels = np.array([1.0, 2.0, 3.0, 6.0])
    outputs = np.array([[1.5], [2.0], [2.0], [6.0]])
    found, figures = run("regression", outputs, outputs + 1, labels)
    assert figures["mae"].value == pytest.approx(1.5 / 4)
    assert figures["rmse"].value == pytest.approx(np.sqrt(1.25 / 4))
    assert figures["r2"].value == pytest.approx(1 - 1.25 / 14)
    assert not figures["mae"].larger_is_better
    assert figures["mae"].interval[0] <= 0.375 <= figures["mae"].interval[1]
    assert found.agreement.value == pytest.approx(1 - 4 / (outputs.var() * 4))
    assert found.summary().metric == "r2"


def test_a_model_that_is_clearly_worse_has_a_small_p_value():
    labels = RNG.normal(size=(150, 2))
    noise = RNG.normal(size=(150, 2))
    _, figures = run("regression", labels + 0.5 * noise, labels + 0.1 * noise, labels)
    assert figures["r2"].p_value < 0.01
    assert figures["r2"].change_interval[1] < 0
    _, same = run("regression", labels + 0.1 * noise, labels + 0.1 * noise, labels)
    assert same["r2"].p_value == 1


def test_embeddings_are_compared_by_direction():
    vectors = RNG.normal(size=(30, 8))
    turned = vectors.copy()
    turned[0] = -turned[0]
    found, figures = run("embeddings", turned * 3, vectors, None)
    assert figures["cosine"].value == pytest.approx(28 / 30)
    assert figures["min_cosine"].value == pytest.approx(-1)
    assert figures["min_cosine"].interval is None
    assert (found.summary().metric, found.summary().reference) == ("cosine", pytest.approx(1))
    assert figures["cosine"].reference == pytest.approx(1)


def test_tokens_leave_padding_out():
    labels = np.array([[0, 1, -1], [2, 2, 2]])
    outputs = np.eye(3)[[[0, 0, 0], [2, 2, 1]]]
    _, figures = run("tokens", outputs, outputs, labels)
    assert figures["token_accuracy"].value == pytest.approx(3 / 5)


def test_ctc_merges_repeats_and_drops_blanks():
    best = np.array([[1, 1, 0, 1, 2], [0, 0, 0, 0, 0], [2, 1, 1, 2, 2]])
    decoded = greedy_decode(np.eye(3)[best], blank=0)
    assert decoded.tolist() == [[1, 1, 2, -1, -1], [-1] * 5, [2, 1, 2, -1, -1]]
    labels = np.array([[1, 2, -1], [1, -1, -1], [2, 1, 2]])
    found, figures = run("ctc", np.eye(3)[best], np.eye(3)[best], labels)
    assert figures["token_error_rate"].value == pytest.approx((1 + 1 + 0) / 6)
    assert found.agreement.value == 1


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2), max_size=7), st.lists(st.integers(0, 2), max_size=7))
def test_edit_distance_is_that_of_the_definition(one, other):
    @functools.cache
    def plain(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        change = plain(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        return min(plain(i - 1, j) + 1, plain(i, j - 1) + 1, change)

    assert edit_distance(one, other) == plain(len(one), len(other))


@pytest.mark.parametrize(
    ("labels", "blank"), [([[1, 2]], 3), ([[1, 3]], 0), ([[0, 1]], 3), (None, 3)]
)
def test_the_blank_is_the_class_that_no_label_has(labels, blank):
    assert find_blank(None if labels is None else np.array(labels), 4) == blank


def test_no_room_for_a_blank():
    with pytest.raises(DataError, match="one of the two must be CTC's blank"):
        find_blank(np.array([[0, 3]]), 4)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_the_area_counts_every_pair(samples):
    scores, positive = (np.array(column) for column in zip(*samples, strict=True))
    area = roc_auc({"score": scores, "label": positive.astype(int)}, np.ones((1, len(scores))))[0]
    if positive.all() or not positive.any():
        assert np.isnan(area)
        return
    ahead = scores[positive][:, None] - scores[~positive][None, :]
    assert area == pytest.approx(np.mean((ahead > 0) + 0.5 * (ahead == 0)))


def test_counting_a_sample_twice_is_having_it_twice():
    scores, labels = RNG.normal(size=20), RNG.integers(0, 2, 20)
    counts = RNG.integers(0, 3, 20)
    weighted = roc_auc({"score": scores, "label": labels}, counts[None, :].astype(float))
    index = np.repeat(np.arange(20), counts)
    plain = roc_auc({"score": scores[index], "label": labels[index]}, np.ones((1, len(index))))
    assert weighted == pytest.approx(plain)


def test_an_autoencoder_scores_by_what_it_cannot_rebuild():
    inputs = RNG.normal(size=(80, 6))
    labels = (np.arange(80) % 4 == 0).astype(int)
    outputs = inputs + labels[:, None] * 2.0
    found, figures = run("anomaly", outputs, outputs, labels, inputs=inputs)
    assert figures["roc_auc"].value == 1
    assert found.agreement.value == pytest.approx(1)


DETECTED = {
    "class numbers": (np.array([0, 2, 1]), (None, 3), "classification"),
    "numbers": (np.array([0.5, 1.5]), (None, 1), "regression"),
    "several numbers": (np.zeros((4, 2)), (None, 2), "regression"),
    "a class per position": (np.zeros((4, 9), int), (None, 9, 3), "tokens"),
    "pixels": (np.zeros((4, 9, 9), int), (None, 9, 9, 3), "tokens"),
    "shorter sequences": (np.zeros((4, 5), int), (None, 9, 3), "ctc"),
    "rebuilt inputs": (np.array([0, 1]), (None, 7, 2), "anomaly"),
    "unlabelled scores": (None, (None, 3), "classification"),
    "unlabelled sequences": (None, (None, 9, 3), "tokens"),
    "unlabelled number": (None, (None, 1), "regression"),
}


@pytest.mark.parametrize("name", DETECTED)
def test_detected(name):
    labels, output, task = DETECTED[name]
    assert detect_task(labels, output, [(None, 7, 2)]) == task


AMBIGUOUS = {
    "0 and 1 for one output": (
        np.array([0, 1]), (None, 1), "choose --task classification or regression or anomaly",
    ),
    "counts for one output": (np.array([0, 7]), (None, 1), None),
    "sequences of free length": (
        np.zeros((4, 5), int), (None, None, 3), "choose --task tokens or ctc",
    ),
    "padded to the full length": (
        np.full((4, 9), -1), (None, 9, 3), "choose --task tokens or ctc",
    ),
    "text": (np.array(["a"]), (None, 3), "such as 'a': give whole class numbers from 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_not_clear_is_asked(name):
    labels, output, message = AMBIGUOUS[name]
    if message is None:
        assert detect_task(labels, output, [(None, 4)]) == "regression"
        return
    with pytest.raises(DataError) as caught:
        detect_task(labels, output, [(None, 4)])
    assert message in str(caught.value)


def test_an_unknown_task():
    with pytest.raises(DataError, match="no task 'clasify'; there are classification, regression"):
        check_task("clasify")


PLUGIN = """
import numpy as np

def accuracy(outputs, labels):
    return {"hits": float(np.mean(outputs.argmax(1) == labels)), "samples": len(labels)}

def nan(outputs, labels):
    return float("nan")

def text(outputs, labels):
    return "good"

def broken(outputs, labels):
    raise KeyError("oops")
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "my_figures.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "my_figures"
    sys.modules.pop("my_figures", None)


def test_a_users_function(plugin):
    labels = RNG.integers(0, 3, 100)
    scores, reference = RNG.normal(size=(2, 100, 3))
    found, figures = run(f"{plugin}:accuracy", scores, reference, labels)
    assert figures["hits"].value == np.mean(scores.argmax(1) == labels)
    assert figures["samples"].value == 100
    assert figures["hits"].interval[0] < figures["hits"].value < figures["hits"].interval[1]
    assert found.summary().metric == "hits"
    assert found.agreement.name == "same_top1"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("my_figures:nan", "must return finite numbers; it returned nan"),
        ("my_figures:text", "must return a number or a mapping of them"),
        ("my_figures:broken", "my_figures:broken failed: KeyError: 'oops'"),
        ("my_figures:none", "module my_figures has no function none"),
        ("no_such_module:f", "module no_such_module cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_users_function_that_does_not_work(plugin, task, message):
    with pytest.raises(DataError) as caught:
        run(task, np.ones((4, 3)), None, np.arange(4))
    assert message in str(caught.value)
