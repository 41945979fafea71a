"""Harm: a class or group that is hit is named, one that is not is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.errors import ExportError
from trimtab.evaluate.data import Dataset, Split
from trimtab.evaluate.evaluate import assess
from trimtab.evaluate.harm import forbid_harm

RNG = np.random.default_rng(0)
CLASSES, SAMPLES = 6, 600
LABELS = np.arange(SAMPLES) % CLASSES


def scores_with(wrong: np.ndarray) -> np.ndarray:
    """Scores whose best is the label, or, where `wrong`, the next class."""
    return np.eye(CLASSES)[(LABELS + wrong) % CLASSES]


def judge(wrong, reference_wrong, *, labels=LABELS, groups=None, task="classification", out=None):
    split = Split(inputs=(np.arange(SAMPLES),), labels=labels, groups=groups)
    names = tuple("abcdef") if task == "classification" else None
    data = Dataset(source="here", train=split, test=split, class_names=names)
    outputs, reference = out or (scores_with(wrong), scores_with(reference_wrong))
    return assess(lambda arrays: [outputs[arrays[0]]], data, [reference], task)


def test_the_class_that_is_hit_is_named():
    before = RNG.random(SAMPLES) < 0.05
    after = before | ((LABELS == 2) & (RNG.random(SAMPLES) < 0.3))
    found = judge(after, before)
    (harmed,) = [effect for effect in found.effects if effect.harmed]
    assert (harmed.kind, harmed.name, harmed.samples) == ("class", "c", 100)
    assert harmed.change_interval[1] < 0
    assert harmed.p_value < 1e-6
    assert found.summary().harmed == (harmed,)
    with pytest.raises(ExportError) as caught:
        forbid_harm(found.effects)
    assert "class c: top1 0." in str(caught.value)
    assert "95 % interval -0." in str(caught.value)
    assert "class d" not in str(caught.value)


def test_a_loss_that_all_classes_share_is_no_harm():
    before = RNG.random(SAMPLES) < 0.05
    after = before | (RNG.random(SAMPLES) < 0.2)
    found = judge(after, before)
    assert not any(effect.harmed for effect in found.effects)
    forbid_harm(found.effects)


def test_a_class_that_merely_gains_less_is_not_harmed():
    before = np.ones(SAMPLES, bool)
    found = judge((LABELS == 0), before)
    assert not any(effect.harmed for effect in found.effects)


def test_groups_of_a_regression():
    labels = RNG.normal(size=SAMPLES)
    groups = np.where(np.arange(SAMPLES) % 3 == 0, "night", "day")
    before = labels + RNG.normal(size=SAMPLES) * 0.1
    after = before + (groups == "night") * RNG.normal(size=SAMPLES)
    out = (after[:, None], before[:, None])
    found = judge(None, None, labels=labels, groups=groups, task="regression", out=out)
    assert [(e.kind, e.name, e.harmed) for e in found.effects] == [
        ("group", "day", False),
        ("group", "night", True),
    ]
    night = found.effects[1]
    assert night.metric == "mae"
    assert night.change_interval[0] > 0


def test_groups_beside_classes_are_corrected_apart():
    before = np.zeros(SAMPLES, bool)
    groups = RNG.integers(0, 2, SAMPLES)
    after = (groups == 1) & (RNG.random(SAMPLES) < 0.2)
    effects = judge(after, before, groups=groups).effects
    assert {(e.kind, e.name) for e in effects if e.harmed} == {("group", "1")}


def test_a_single_group_cannot_be_told_from_the_rest():
    assert judge(LABELS < 0, LABELS < 0, labels=None, groups=LABELS).effects is None
    one = np.zeros(SAMPLES, int)
    effects = judge(LABELS < 0, LABELS < 0, groups=one).effects
    assert {effect.kind for effect in effects} == {"class"}
