"""Two versions in turns: the order, what is left out, and what becomes of a version that fails."""

from __future__ import annotations

import sys
import textwrap

import msgspec
import pytest

from support.models import write_golden, write_model
from support.sysfs import INA226, write_tree
from trimtab_agent.bench import alternate, rounds, turns
from trimtab_agent.bench.alternate import compare
from trimtab_agent.bench.plan import NORMAL, QUICK, Plan
from trimtab_agent.bench.player import Player, Subject
from trimtab_agent.bench.protocol import TurnTimes
from trimtab_agent.contract.manifest import RuntimeSpec
from trimtab_agent.contract.measurement import Energy
from trimtab_agent.errors import FormatError, MeasurementError

BRIEF = Plan(
    warmup_s=0.05, duration_s=0.2, min_runs=60, pairs=6, energy_pairs=6, idle_s=0.3, energy_s=0.6
)


class ScriptedSide:
    """A side whose turns wait as long as a script says, and that writes down its turns."""

    def __init__(self, name: str, diary: list[str], waits: list[float | None] | None = None):
        self.name, self.diary, self.waits = name, diary, waits or []

    def time(self) -> TurnTimes:
        self.diary.append(self.name)
        waited = self.waits.pop(0) if self.waits else None
        return TurnTimes(raw_ns=(1000, 2000), waited_share=waited)

    def watch(self) -> Energy:
        self.diary.append(self.name)
        return Energy(level="counter", net_mj=1.0)


def take_rounds(plan: Plan, waits: list[float | None]) -> tuple[list[rounds.Round], str]:
    diary: list[str] = []
    taken = rounds.latency_rounds(ScriptedSide("A", diary, waits), ScriptedSide("B", diary), plan)
    return taken, "".join(diary)


def test_the_order_changes_from_pair_to_pair():
    assert take_rounds(Plan(pairs=4), [])[1] == "ABBAABBA"
    diary: list[str] = []
    watched = rounds.energy_rounds(
        ScriptedSide("A", diary), ScriptedSide("B", diary), Plan(energy_pairs=3)
    )
    assert ("".join(diary), len(watched)) == ("ABBAAB", 3)


def test_pairs_that_were_disturbed_are_made_up_for_and_left_out():
    taken, _ = take_rounds(Plan(pairs=8), [0.0, 0.5, 0.0, 0.11, None])
    assert [entry.disturbed for entry in taken[:5]] == [False, True, False, True, False]
    assert len(taken) == 10
    used, percentile = rounds.counted(taken)
    assert (len(used), percentile) == (8, 95)


def test_a_load_that_never_ends_ends_in_using_the_medians_of_every_pair():
    taken, _ = take_rounds(Plan(pairs=8), [0.5] * 20)
    used, percentile = rounds.counted(taken)
    assert (len(taken), len(used), percentile) == (12, 12, 50)
    assert used[0].latency_ns(50) == (1000, 1000)
    assert used[0].latency_ns(95) == (2000, 2000)


def test_a_slow_model_ends_with_as_many_pairs_as_an_interval_needs():
    taken, _ = take_rounds(Plan(pairs=20, duration_s=0.0, limit_s=0.0), [])
    assert len(taken) == 6


@pytest.mark.parametrize("plan", [QUICK, NORMAL])
def test_both_versions_together_fill_no_more_of_a_report_than_one(plan):
    assert 2 * plan.most_pairs * plan.turn.max_runs <= plan.max_runs
    assert plan.turn.max_runs >= 59  # what a 95th percentile needs
    assert plan.turn.min_runs * plan.pairs >= plan.min_runs


def test_a_throttled_pair_is_disturbed():
    calm = TurnTimes(raw_ns=(1,), waited_share=0.0)
    assert rounds.Round(new=calm, running=calm, throttled=True).disturbed
    assert not rounds.Round(new=calm, running=calm, throttled=None).disturbed


def test_energy_of_all_turns_counts_by_inferences():
    def turn(net_mj: float, inferences: int) -> Energy:
        return Energy(
            level="counter", source="rapl", scope="soc", gross_mj=9.0, net_mj=net_mj,
            net_uncertainty_mj=0.5, idle_power_mw=1.0, load_power_mw=2.0, inferences=inferences,
        )  # fmt: skip

    found = rounds.total_energy([turn(1.0, 100), turn(4.0, 300)])
    assert (found.net_mj, found.inferences, found.net_uncertainty_mj) == (3.25, 400, 0.5)
    failed = Energy(level="none", reason="unplugged")
    assert rounds.total_energy([turn(1.0, 1), failed]) == failed
    assert rounds.net_mj([(turn(1.0, 1), turn(2.0, 1)), (failed, turn(1.0, 1))]) == []


def test_waiting_for_a_processor_as_the_kernel_counts_it(tmp_path):
    for thread, text in (("7", "100 25 3"), ("8", "1 5 1")):
        task = tmp_path / "self" / "task" / thread
        task.mkdir(parents=True)
        (task / "schedstat").write_text(text)
    assert turns.waited_ns(tmp_path) == 30
    assert turns.waited_ns(tmp_path / "nowhere") is None


def subject(folder, runtime: str = "onnxruntime") -> Subject:
    folder.mkdir(exist_ok=True)
    return Subject(
        runtime=RuntimeSpec(name=runtime, model="unused"),
        model_path=write_model(runtime, folder),
        golden_path=write_golden(folder / "golden.npz"),
    )


def broken(folder) -> Subject:
    found = subject(folder)
    found.model_path.write_bytes(b"no model")
    return found


def test_compares_two_versions(tmp_path):
    new = subject(tmp_path / "new")
    measurement, comparison = compare(
        new, subject(tmp_path / "running"), target="m-1.json", plan=BRIEF, power_root=tmp_path
    )
    assert measurement.latency.p95_us is not None
    assert comparison.target == "m-1.json"
    assert comparison.rounds >= 6
    lower, upper = comparison.latency_interval
    assert lower <= comparison.latency_ratio <= upper
    assert comparison.memory_ratio == pytest.approx(1, abs=0.1)
    assert (comparison.energy_ratio, measurement.energy.level) == (None, "none")


@pytest.mark.slow
def test_compares_two_runtimes_under_a_sensor_each_turn_in_a_process(tmp_path, monkeypatch):
    """As where there is not memory for both at once."""
    write_tree(tmp_path, INA226)
    monkeypatch.setattr(alternate, "available_bytes", lambda: 1)
    measurement, comparison = compare(
        subject(tmp_path / "new", "tflite"),
        subject(tmp_path / "running"),
        target="m-1.json",
        plan=msgspec.structs.replace(BRIEF, pairs=2, energy_pairs=2),
        power_root=tmp_path,
    )
    assert (measurement.runtime, comparison.running.runtime) == ("tflite", "onnxruntime")
    assert measurement.energy.level == "integrated_samples"
    assert measurement.energy.inferences
    assert comparison.latency_interval is None  # too few pairs for one
    assert comparison.energy_ratio is None  # a power that never changes leaves nothing above idle


@pytest.mark.slow
def test_a_running_version_that_is_broken_does_not_keep_out_the_next(tmp_path, caplog):
    measurement, comparison = compare(
        subject(tmp_path / "new"),
        broken(tmp_path / "running"),
        target="m-1.json",
        plan=BRIEF,
        power_root=tmp_path,
    )
    assert comparison is None
    assert measurement.latency.count
    assert "m-1.json runs, and cannot be compared with" in caplog.text


def test_a_new_version_that_is_broken_is_an_error(tmp_path):
    new, running = broken(tmp_path / "new"), subject(tmp_path / "running")
    with pytest.raises(FormatError, match=r"model\.onnx"):
        compare(new, running, target="m-1.json", plan=BRIEF, power_root=tmp_path)


OPENED = '{"opened":{"load_ns":1,"first_ns":1,"warmup_count":1}}'


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("print('rubbish', flush=True); time.sleep(9)", "reply of the child process"),
        ("print('{}', flush=True); time.sleep(9)", "gave no figures: the versions are mixed"),
        ("time.sleep(9)", "was ended after 0.2 s"),
        ('print(\'{"fault":{"reason":"measurement","message":"starved"}}\', flush=True)',
         "starved"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("opens", [False, True])
def test_a_process_that_ends_badly(tmp_path, code, message, opens):
    opening = f"sys.stdin.readline(); print({OPENED!r}, flush=True)\n" if opens else ""
    script = f"import os, sys, time\n{opening}sys.stdin.readline()\n{textwrap.dedent(code)}"
    plan = Plan(warmup_limit_s=0.0, duration_s=0.0, limit_s=0.0, idle_s=0.0, energy_s=0.2,
                grace_s=0.0)  # fmt: skip
    if message.startswith("was ended"):
        request = subject(tmp_path).request("turns", plan, tmp_path)
    else:
        request = subject(tmp_path).request("turns", Plan(), tmp_path)
    command = [sys.executable, "-S", "-c", script]
    with pytest.raises(MeasurementError, match=message), Player(request, command=command) as player:
        player.time(plan)


def test_a_process_that_does_not_start(tmp_path):
    with pytest.raises(MeasurementError, match="cannot be started"):
        Player(subject(tmp_path).request("turns", Plan(), tmp_path), command=["/no/such/program"])
