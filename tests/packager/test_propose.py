"""The proposer against simulated devices, and the verdicts that it and the loop rest on."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.search import INVENTORY, World, budgets, measurement, take, worlds
from trimtab.compress.recipe import parse_recipe
from trimtab.errors import RecipeError
from trimtab.hardware import load_profile
from trimtab.search import model
from trimtab.search.best import best, rank
from trimtab.search.candidates import MACS_SHARES, ladder
from trimtab.search.hopeless import hopeless
from trimtab.search.propose import propose
from trimtab.search.trial import Measured, Trial, TrialFailure, measured_from_report
from trimtab.search.verdict import verdict
from trimtab_agent.contract.manifest import Budget
from trimtab_agent.contract.messages import Failure, Report

CANDIDATES = ladder(load_profile("generic-x86-64"))
BY_ID = {candidate.id: candidate for candidate in CANDIDATES}
NOTHING = Budget()


# The ladder


def test_the_ladder_starts_with_the_original_in_the_preferred_runtime():
    first = CANDIDATES[0]
    assert (first.id, first.recipe, first.macs_share) == ("tflite-float32", (), 1.0)


def test_the_ladder_has_pruning_int8_and_both_per_runtime():
    assert len(CANDIDATES) == len(BY_ID) == 3 * 2 * len(MACS_SHARES)
    assert all(0.82 < less / more < 0.87 for more, less in itertools.pairwise(MACS_SHARES))
    both = BY_ID["openvino-int8-prune50"]
    assert [*map(list, both.recipe)] == [["prune_channels"], ["fine_tune"], ["quantize_int8"]]
    assert both.recipe[0] == {"prune_channels": {"macs": 0.5}}
    assert both.target == "openvino"


@pytest.mark.parametrize("name", sorted(BY_ID))
def test_every_recipe_is_one_that_compress_reads(name):
    recipe = parse_recipe({"steps": BY_ID[name].recipe}, name)
    assert len(recipe.steps) == len(BY_ID[name].recipe)


def test_targets_restrict_the_ladder():
    assert {c.target for c in ladder(load_profile("raspberry-pi-5"), {"tflite"})} == {"tflite"}


def test_a_runtime_that_the_profile_lacks():
    with pytest.raises(RecipeError, match="raspberry-pi-5 has none of the runtimes openvino"):
        ladder(load_profile("raspberry-pi-5"), {"openvino"})


def test_int8_only_where_the_profile_lists_it():
    profile = load_profile("generic-aarch64")
    slow = msgspec.structs.replace(profile.runtimes[0], dtypes=("float32",))
    assert {
        c.precision for c in ladder(msgspec.structs.replace(profile, runtimes=(slow,)))
    } == {"float32"}  # fmt: skip


# The proposer


ANCHORS = ["tflite-float32", "tflite-int8", "tflite-float32-prune50"]


def first(world: World, count: int, budget: Budget = NOTHING, candidates=CANDIDATES) -> list[str]:
    return [t.candidate.id for t in take(world, candidates, budget, propose, limit=count)]


def test_the_anchors_come_first():
    assert first(World(), 3) == ANCHORS


def test_the_anchors_are_tried_even_if_they_are_hopeless():
    budget = Budget(wire_bytes=1)
    trials = [World().trial(BY_ID["tflite-int8-prune25"])]
    assert set(ANCHORS) <= {candidate.id for candidate in hopeless(CANDIDATES, trials, budget)}
    assert propose(CANDIDATES, trials, budget) is BY_ID[ANCHORS[0]]


def test_the_anchors_are_those_that_the_ladder_has():
    without_int8 = ladder(load_profile("generic-x86-64"), has_data=False)
    assert first(World(), 2, candidates=without_int8) == [ANCHORS[0], ANCHORS[2]]


def test_a_runtime_that_the_device_lacks_has_no_anchors():
    lacking = TrialFailure(stage="device", reason="runtime", message="no tflite here")
    world = World(refusing={"tflite-float32": lacking})
    assert first(world, 4) == [
        "tflite-float32", "openvino-float32", "openvino-int8", "openvino-float32-prune50",
    ]  # fmt: skip


def test_the_anchors_are_enough_to_jump_ahead():
    world = World(a_us=1000, b=1.0, noise=0)
    *_, last = take(
        world, CANDIDATES, Budget(latency_p95_us=330, accuracy_drop=0.05), propose, limit=4
    )
    # 500 us in int8, unpruned: the gentlest on the preferred runtime to be fast enough.
    assert last.candidate.id == "tflite-int8-prune59"


@given(world=worlds(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_it_never_repeats_always_ends_and_best_is_never_beaten(world, data):
    budget = data.draw(budgets(scale_us=world.a_us))
    trials = list(take(world, CANDIDATES, budget, propose))
    ids = [trial.candidate.id for trial in trials]
    ids += [candidate.id for candidate in hopeless(CANDIDATES, trials, budget)]
    assert sorted(ids) == sorted(BY_ID)
    chosen = best(trials, budget)
    assert chosen is not None
    assert all(rank(chosen, budget) <= rank(trial, budget) for trial in trials)


def feasible(world: World, budget: Budget) -> bool:
    """Says whether any candidate keeps the budget with something to spare."""
    tighter = msgspec.structs.replace(budget, latency_p95_us=budget.latency_p95_us * 0.93)
    return any(verdict(world.trial(c), tighter).met for c in CANDIDATES)


SHAPES = list(itertools.product((0.15, 0.5, 1.0), (0.35, 0.8, 1.3), (0.7, 1.0, 1.5), (0.3, 0.6)))


@pytest.mark.parametrize(("b", "int8_speed", "openvino_speed", "share"), SHAPES)
def test_it_finds_a_feasible_candidate_soon_or_gives_up_soon(b, int8_speed, openvino_speed, share):
    def world():
        speeds = {"openvino": openvino_speed, "onnxruntime": 1.2}
        return World(b=b, int8_speed=int8_speed, target_speed=speeds, drop_per_unit=0.008)

    budget = Budget(latency_p95_us=1000 * share, wire_bytes=300_000, accuracy_drop=0.01)
    if not feasible(world(), budget):
        # Then nothing may be claimed to keep it either, beyond the margin of `feasible`.
        budget = msgspec.structs.replace(budget, latency_p95_us=budget.latency_p95_us * 0.9)
        missed = list(take(world(), CANDIDATES, budget, propose))
        assert not any(verdict(trial, budget).met for trial in missed)
        assert len(missed) <= 20  # of 54; 11 on average
        return
    met = [verdict(t, budget).met for t in take(world(), CANDIDATES, budget, propose)]
    assert met.index(True) < 10  # of 54; 3.5 trials on average, 10.5 in the order of the list


def test_a_runtime_that_the_device_lacks_is_given_up():
    lacking = TrialFailure(stage="device", reason="runtime", message="no tflite here")
    world = World(refusing={c.id: lacking for c in CANDIDATES if c.target == "tflite"})
    trials = list(take(world, CANDIDATES, NOTHING, propose))
    assert [t.candidate.target for t in trials].count("tflite") == 1
    assert {t.candidate.target for t in trials} == {"tflite", "openvino", "onnxruntime"}


def test_other_failures_do_not_end_a_runtime():
    crash = TrialFailure(stage="device", reason="measurement", message="killed by signal 9")
    world = World(refusing={"tflite-float32": crash})
    trials = list(take(world, CANDIDATES, NOTHING, propose))
    assert len(trials) == len(CANDIDATES)


# The predictions


def observation(name: str, value: float) -> model.Observation:
    candidate = BY_ID[name]
    return model.Observation(candidate=candidate, share=candidate.macs_share, value=value)


def test_without_observations_there_is_no_prediction():
    assert model.fit_log(model.LATENCY, []) is None


def test_measurements_outweigh_the_prior():
    values = {share: 500 * share**1.2 for share in MACS_SHARES}
    fit = model.fit_log(
        model.LATENCY,
        [
            observation(c.id, values[c.macs_share] * (1.4 if c.precision == "int8" else 1.0))
            for c in CANDIDATES
            if c.target == "tflite"
        ],
    )
    assert fit is not None
    assert fit.slope == pytest.approx(1.2, abs=0.05)
    gain = fit.predict(BY_ID["tflite-int8"], 1.0) - fit.predict(BY_ID["tflite-float32"], 1.0)
    assert gain == pytest.approx(0.336, abs=0.05)  # log 1.4: slower, against the prior


@given(drops=st.dictionaries(st.sampled_from(sorted(BY_ID)), st.floats(-0.02, 0.5), max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_expected_drop_never_falls_with_pruning(drops):
    fit = model.DropFit(
        model.ACCURACY_DROP, [observation(name, drop) for name, drop in drops.items()]
    )
    for precision in ("float32", "int8"):
        rung = [c for c in CANDIDATES if c.target == "tflite" and c.precision == precision]
        expected = [fit.predict(candidate, candidate.macs_share) for candidate in rung]
        assert all(one <= next_ + 1e-9 for one, next_ in itertools.pairwise(expected))


# The verdict


def test_the_original_keeps_no_limits_at_all():
    assert verdict(World().trial(CANDIDATES[0]), NOTHING).met


def test_misses_are_listed_with_their_excess():
    judged = verdict(World(noise=0).trial(CANDIDATES[0]), Budget(latency_p95_us=500, wire_bytes=1))
    assert judged.outcome == "missed"
    assert [miss.item for miss in judged.misses] == ["wire_bytes", "latency_p95_us"]
    assert judged.misses[1].excess == pytest.approx(1.0)


def test_energy_that_cannot_be_measured_is_unproven_not_passed():
    judged = verdict(World().trial(CANDIDATES[0]), Budget(energy_mj=100))
    assert judged.outcome == "unproven"
    assert not judged.met
    assert judged.as_good_as_possible
    assert judged.unproven[0].why == "energy was not measured: no sensor here"


def test_a_miss_outweighs_what_is_unproven():
    judged = verdict(World().trial(CANDIDATES[0]), Budget(energy_mj=100, wire_bytes=1))
    assert judged.outcome == "missed"
    assert [item.item for item in judged.unproven] == ["energy_mj"]


def test_too_few_runs_leave_the_percentile_unproven():
    trial = World().trial(CANDIDATES[0])
    few = measurement(100.0, 1)
    few = msgspec.structs.replace(
        few, latency=msgspec.structs.replace(few.latency, count=40, p95_us=None)
    )
    trial = msgspec.structs.replace(trial, measured=Measured(measurement=few))
    judged = verdict(trial, Budget(latency_p95_us=1e9))
    assert judged.outcome == "unproven"
    assert "40 timed runs are too few" in judged.unproven[0].why
    assert not judged.as_good_as_possible


def test_agreement_proves_a_drop_without_labels():
    world = World(labels=False, int8_drop=0.004)  # agreement 0.994
    trial = world.trial(BY_ID["tflite-int8"])
    assert verdict(trial, Budget(accuracy_drop=0.01)).met
    judged = verdict(trial, Budget(accuracy_drop=0.005))
    assert judged.outcome == "unproven"
    assert judged.unproven[0].why.endswith("the drop is at most 0.60%")


def test_without_data_accuracy_is_unproven_for_all():
    trial = World().trial(CANDIDATES[0])
    assert trial.built is not None
    blind = msgspec.structs.replace(
        trial, built=msgspec.structs.replace(trial.built, evaluation=None)
    )
    assert verdict(blind, Budget(accuracy_drop=0.01)).as_good_as_possible


def test_a_failure_is_neither_met_nor_best():
    failure = TrialFailure(stage="build", reason="export", message="differs")
    failed = Trial(
        candidate=CANDIDATES[0], built=None, measured=None, failure=failure, compress_s=None
    )
    assert verdict(failed, NOTHING).outcome == "failed"
    assert best([failed], NOTHING) is None
    assert best([failed, World().trial(CANDIDATES[1])], NOTHING).candidate is CANDIDATES[1]


def a_report(**changes):
    report = Report(
        id="1",
        device="d",
        counter=1,
        target="t",
        target_sha256=None,
        trial="tflite-int8",
        outcome="active",
        active="t",
        failure=None,
        transfer=None,
        golden=None,
        measurement=None,
        inventory=INVENTORY,
        started="",
        finished="",
    )
    return msgspec.structs.replace(report, **changes)


def test_a_report_that_is_active_but_not_measured_is_a_failure():
    measured = measured_from_report(a_report())
    assert measured.failure is not None
    assert measured.failure.message == "the report ends in active without a measurement"


@pytest.mark.parametrize("reason", ["latency_budget", "memory_budget", "energy_budget"])
def test_a_package_that_missed_a_gate_counts_as_measured(reason):
    failure = Failure(state="measured", reason=reason, message="over the limit")
    found = measurement(900.0, 60_000_000)
    report = a_report(outcome="refused", failure=failure, measurement=found)
    assert measured_from_report(report).failure is None
    assert measured_from_report(report).measurement == found


def test_other_refusals_are_failures():
    failure = Failure(state="staged", reason="golden", message="differs")
    measured = measured_from_report(a_report(outcome="refused", failure=failure))
    assert measured.failure == TrialFailure(stage="device", reason="golden", message="differs")


def test_too_few_runs_for_a_percentile_may_still_show_a_miss():
    trial = World().trial(CANDIDATES[0])
    found = trial.measurement
    for p90_us, outcome in ((None, "unproven"), (1100.0, "missed")):
        latency = msgspec.structs.replace(found.latency, p95_us=None, p90_us=p90_us, p50_us=900.0)
        changed = msgspec.structs.replace(found, latency=latency)
        slow = msgspec.structs.replace(
            trial, measured=msgspec.structs.replace(trial.measured, measurement=changed)
        )
        assert verdict(slow, Budget(latency_p95_us=1000.0)).outcome == outcome
