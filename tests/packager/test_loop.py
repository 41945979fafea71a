"""The search loop: when it stops, what it survives, and that a rerun goes on where it was."""

from __future__ import annotations

import json

import pytest

from support.search import World
from trimtab.errors import DataError, DeviceTimeoutError, ExportError, ModelError, RecipeError
from trimtab.hardware import load_profile
from trimtab.search.candidates import ladder
from trimtab.search.loop import Listener, search
from trimtab.search.state import SearchState, load_state, save_state
from trimtab.search.trial import TrialFailure
from trimtab_agent.contract.manifest import Budget
from trimtab_agent.errors import BrokerError, FormatError, StorageError

CANDIDATES = ladder(load_profile("generic-x86-64"), {"tflite"})
SUBJECT = {"model_sha256": "ab", "profile": "generic-x86-64"}
EASY = Budget(wire_bytes=10**9)
IMPOSSIBLE = Budget(wire_bytes=1)
INT8 = Budget(wire_bytes=100_000, latency_p95_us=700)


@pytest.fixture
def world(tmp_path):
    return World(directory=tmp_path)


@pytest.fixture
def run(tmp_path):
    """Runs a search in the test's directory."""

    def go(world, budget, device=None, subject=SUBJECT, listener=None, candidates=CANDIDATES):
        return search(
            candidates,
            budget,
            builder=world,
            device=device or world,
            path=tmp_path / "search.json",
            subject=subject,
            listener=listener,
        )

    return go


class Interrupted:
    """A device at which Ctrl-C is pressed during the n-th measurement."""

    def __init__(self, world: World, after: int) -> None:
        self.world, self.left = world, after

    def measure(self, candidate, built):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.world.measure(candidate, built)


class Unreachable:
    """A device that is not there."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def measure(self, candidate, built):
        raise self.error


# Stopping


def test_it_stops_when_the_budget_is_met(world, run):
    result = run(world, EASY)
    assert result.stopped_by == "budget met"
    assert [trial.candidate.id for trial in result.trials] == ["tflite-float32"]
    assert result.best is result.trials[0]


def test_it_goes_on_while_the_budget_is_missed(world, run):
    result = run(world, INT8)
    assert result.stopped_by == "budget met"
    assert result.best is result.trials[-1]
    assert result.best.candidate.precision == "int8"
    assert 1 < len(result.trials) < len(CANDIDATES)


def test_it_stops_when_the_candidates_are_spent(world, run):
    result = run(world, IMPOSSIBLE)
    assert result.stopped_by == "candidates spent"
    assert [trial.candidate.id for trial in result.trials] == [
        "tflite-float32", "tflite-int8", "tflite-float32-prune50", "tflite-int8-prune25",
    ]  # fmt: skip
    assert result.best is result.trials[-1]  # the smallest: least over
    assert result.ruled_out == len(CANDIDATES) - 4


def test_it_does_not_look_for_what_no_candidate_can_prove(world, run):
    result = run(world, Budget(wire_bytes=10**9, energy_mj=1.0))
    assert result.stopped_by == "budget unproven"
    assert len(result.trials) == 1


# Failures


def test_a_candidate_that_cannot_be_built_is_recorded_and_passed_over(world, run):
    world.failing["tflite-float32"] = ExportError("outputs differ by 3.0")
    result = run(world, EASY)
    assert result.stopped_by == "budget met"
    assert result.trials[0].failure == TrialFailure(
        stage="build", reason="export", message="outputs differ by 3.0"
    )


def test_a_technique_that_has_no_use_for_the_model_does_not_end_the_search(world, run):
    error = ModelError("no channel of the model can be pruned")
    world.failing = {c.id: error for c in CANDIDATES if c.macs_share < 1}
    result = run(world, Budget(wire_bytes=50_000))
    assert result.stopped_by == "candidates spent"
    assert result.trials[2].failure == TrialFailure(
        stage="build", reason="model", message="no channel of the model can be pruned"
    )
    assert result.best.candidate.id == "tflite-int8"


def test_a_package_that_the_device_refuses_is_recorded_and_passed_over(world, run):
    crash = TrialFailure(stage="device", reason="measurement", message="killed by signal 11")
    world.refusing["tflite-float32"] = crash
    result = run(world, EASY)
    assert result.trials[0].failure == crash
    assert result.stopped_by == "budget met"


def test_nothing_works(world, run):
    world.failing = {c.id: ExportError("no") for c in CANDIDATES}
    result = run(world, EASY)
    assert (result.stopped_by, result.best) == ("candidates spent", None)
    assert result.ruled_out == 0
    assert len(result.trials) == len(CANDIDATES)


@pytest.mark.parametrize("error", [BrokerError("gone"), DeviceTimeoutError("silent")])
def test_an_error_that_is_no_candidates_fault_ends_it_and_loses_nothing(world, run, error):
    with pytest.raises(type(error)):
        run(world, EASY, device=Unreachable(error))
    result = run(world, EASY)
    assert result.stopped_by == "budget met"
    assert world.built == ["tflite-float32"]  # once, though it took two runs


def test_bad_data_ends_it(world, run):
    world.failing["tflite-float32"] = DataError("x_test is empty")
    with pytest.raises(DataError, match="x_test is empty"):
        run(world, EASY)


# Interrupting and resuming


@pytest.mark.parametrize("after", [0, 1, 3])
def test_interrupted_and_resumed_is_as_if_never_interrupted(tmp_path, world, run, after):
    whole = World(directory=tmp_path)
    expected = search(
        CANDIDATES,
        IMPOSSIBLE,
        builder=whole,
        device=whole,
        path=tmp_path / "other" / "search.json",
        subject=SUBJECT,
    )
    first = run(world, IMPOSSIBLE, device=Interrupted(world, after))
    assert first.stopped_by == "interrupted"
    assert len(first.trials) == after
    second = run(world, IMPOSSIBLE)
    assert world.built == whole.built
    assert world.measured == whole.measured
    assert [t.measured for t in second.trials] == [t.measured for t in expected.trials]
    assert second.best.candidate == expected.best.candidate


def test_a_package_that_has_gone_is_built_again(tmp_path, world, run):
    run(world, EASY, device=Interrupted(world, 0))
    (tmp_path / "tflite-float32.trimtab").unlink()
    assert run(world, EASY).stopped_by == "budget met"
    assert world.built == ["tflite-float32", "tflite-float32"]


def test_a_met_budget_needs_no_second_run(world, run):
    run(world, EASY)
    assert run(world, EASY).stopped_by == "budget met"
    assert len(world.measured) == 1


def test_a_tighter_budget_keeps_what_was_measured(world, run):
    run(world, EASY)
    result = run(world, INT8)
    assert result.stopped_by == "budget met"
    assert world.built.count("tflite-float32") == 1


def test_another_model_is_another_search(world, run):
    run(world, EASY)
    with pytest.raises(RecipeError, match="is of another search: its model_sha256 differs"):
        run(world, EASY, subject={**SUBJECT, "model_sha256": "cd"})


def test_the_listener_hears_every_step_in_order(world, run):
    heard = []

    class Recorder(Listener):
        def building(self, candidate):
            heard.append(("building", candidate.id))

        def measuring(self, candidate, built):
            heard.append(("measuring", candidate.id))

        def done(self, trial, judged):
            heard.append(("done", judged.outcome))

    run(world, EASY, listener=Recorder())
    assert heard == [
        ("building", "tflite-float32"),
        ("measuring", "tflite-float32"),
        ("done", "met"),
    ]


# The file


def test_the_file_is_whole_and_alone(tmp_path, world, run):
    run(world, EASY)
    assert json.loads((tmp_path / "search.json").read_text())["subject"] == SUBJECT
    assert not list(tmp_path.glob(".*"))


BAD_FILES = {
    "no JSON": (b"{", FormatError, "cannot be read as SearchState"),
    "another format": (b'{"format": 2, "subject": {}}', FormatError, r"at `\$.format`"),
    "a trial without a candidate": (
        b'{"format": 1, "subject": {}, "trials": [{}]}',
        FormatError,
        r"at `\$.trials\[0\]`",
    ),
}


@pytest.mark.parametrize("name", sorted(BAD_FILES))
def test_bad_file(tmp_path, name):
    data, error, message = BAD_FILES[name]
    path = tmp_path / "search.json"
    path.write_bytes(data)
    with pytest.raises(error, match=message):
        load_state(path, {})


def test_a_candidate_that_is_there_twice(tmp_path, world):
    trial = world.trial(CANDIDATES[0])
    save_state(tmp_path / "s.json", SearchState(subject={}, trials=(trial, trial)))
    with pytest.raises(FormatError, match="holds a candidate twice"):
        load_state(tmp_path / "s.json", {})


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be written: (Not a directory|File exists)"):
        save_state(tmp_path / "file" / "search.json", SearchState(subject={}))
