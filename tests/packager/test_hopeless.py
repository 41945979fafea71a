"""What trials rule out: each rule by itself, and that nothing goes that keeps the budget."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.search import World, budgets, take, worlds
from trimtab.hardware import load_profile
from trimtab.search.candidates import at_least_as_harsh, ladder
from trimtab.search.hopeless import hopeless
from trimtab.search.propose import propose
from trimtab.search.trial import TrialFailure
from trimtab.search.verdict import verdict
from trimtab_agent.contract.manifest import Budget

CANDIDATES = ladder(load_profile("generic-x86-64"))
BY_ID = {candidate.id: candidate for candidate in CANDIDATES}
QUIET = World(noise=0, b=1.0, drop_per_unit=0.01, energy=True)


def ruled_out(name: str, budget: Budget, world: World = QUIET) -> set[str]:
    """Returns what the trial of one candidate rules out."""
    return {c.id for c in hopeless(CANDIDATES, [world.trial(BY_ID[name])], budget)}


def test_a_size_on_the_wire_rules_out_what_is_gentler_on_the_same_runtime():
    assert ruled_out("tflite-int8-prune70", Budget(wire_bytes=1)) == {
        "tflite-float32", "tflite-float32-prune84", "tflite-float32-prune70",
        "tflite-int8", "tflite-int8-prune84",
    }  # fmt: skip


@pytest.mark.parametrize(
    "budget", [Budget(latency_p95_us=1), Budget(energy_mj=0.1), Budget(peak_memory_bytes=1)]
)
def test_what_int8_misses_on_the_device_says_nothing_of_float32(budget):
    assert ruled_out("tflite-int8-prune70", budget) == {"tflite-int8", "tflite-int8-prune84"}
    assert ruled_out("tflite-float32-prune84", budget) == {"tflite-float32"}


def test_accuracy_rules_out_what_is_harsher_on_any_runtime():
    # Pruned to 0.35, this world loses 1.9 points.
    found = ruled_out("openvino-float32-prune35", Budget(accuracy_drop=0.01))
    harsher = {c.id for c in CANDIDATES if c.macs_share <= 0.35} - {"openvino-float32-prune35"}
    assert found == harsher
    assert "tflite-int8-prune25" in found


@pytest.mark.parametrize(
    ("budget", "rules_out"),
    [
        (Budget(wire_bytes=254_000), True),  # of 256 125
        (Budget(latency_p95_us=640), False),  # of 703
        (Budget(latency_p95_us=630), True),
        (Budget(energy_mj=6.4), False),  # of 7.03
        (Budget(energy_mj=6.3), True),
        (Budget(peak_memory_bytes=59_200_000), False),  # of 60 281 248
        (Budget(peak_memory_bytes=59_000_000), True),
        (Budget(accuracy_drop=0.0005), False),  # of 0.0042
        (Budget(accuracy_drop=0.0001), True),
    ],
)
def test_a_miss_within_the_noise_rules_nothing_out(budget, rules_out):
    trial = QUIET.trial(BY_ID["tflite-float32-prune70"])
    assert verdict(trial, budget).outcome == "missed"
    assert bool(hopeless(CANDIDATES, [trial], budget)) is rules_out


def test_a_failed_trial_rules_nothing_out():
    crash = TrialFailure(stage="device", reason="measurement", message="killed by signal 9")
    world = World(refusing={"tflite-int8": crash})
    assert not ruled_out("tflite-int8", Budget(wire_bytes=1), world)


def test_what_has_no_figure_rules_nothing_out():
    budget = Budget(energy_mj=0.001, accuracy_drop=0.0)
    assert not ruled_out("tflite-int8-prune25", budget, World(energy=False, labels=False))


@given(one=st.sampled_from(CANDIDATES), two=st.sampled_from(CANDIDATES))
def test_harshness_is_a_partial_order(one, two):
    assert at_least_as_harsh(one, than=one)
    if at_least_as_harsh(one, than=two) and at_least_as_harsh(two, than=one):
        assert (one.macs_share, one.precision) == (two.macs_share, two.precision)
    for three in CANDIDATES:
        if at_least_as_harsh(one, than=two) and at_least_as_harsh(two, than=three):
            assert at_least_as_harsh(one, than=three)


@given(
    world=worlds(),
    tried=st.lists(st.sampled_from(CANDIDATES), max_size=8, unique_by=lambda c: c.id),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_without_noise_what_is_ruled_out_misses(world, tried, data):
    world = dataclasses.replace(world, noise=0, accuracy_noise=0)
    budget = data.draw(budgets(scale_us=world.a_us))
    trials = [world.trial(candidate) for candidate in tried]
    for candidate in hopeless(CANDIDATES, trials, budget):
        assert candidate not in tried
        assert verdict(world.trial(candidate), budget).outcome == "missed"


@given(world=worlds(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_with_noise_nothing_is_ruled_out_that_keeps_the_budget_with_some_slack(world, data):
    world = dataclasses.replace(world, noise=min(world.noise, 0.03))
    budget = data.draw(budgets(scale_us=world.a_us))
    trials = list(take(world, CANDIDATES, budget, propose))
    quiet = dataclasses.replace(world, noise=0, accuracy_noise=0)
    for candidate in hopeless(CANDIDATES, trials, budget):
        assert not verdict(quiet.trial(candidate), with_slack(budget)).met


def with_slack(budget: Budget) -> Budget:
    """Returns the budget with each limit that noise can blur lowered by 7 %."""
    noisy = ("latency_p95_us", "energy_mj", "accuracy_drop")
    limits = {item: getattr(budget, item) for item in noisy}
    return msgspec.structs.replace(
        budget, **{item: None if limit is None else 0.93 * limit for item, limit in limits.items()}
    )
