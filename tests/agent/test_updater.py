"""The update's state machine: each way through it; `test_machine_updates` has any order."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from support.manifests import small_package
from support.updates import MEASUREMENT, Device, PowerCut, assignment_message
from trimtab_agent.contract.manifest import Budget, Hardware
from trimtab_agent.contract.messages import Gates, State
from trimtab_agent.contract.messages import HealthCheck as Health
from trimtab_agent.errors import (
    BrokerError,
    CallerError,
    DeviceError,
    ExpiredError,
    GoldenError,
    HealthError,
    HelperProcessError,
    HookError,
    IntegrityError,
    MeasurementError,
    NetworkError,
    PackageError,
    StorageError,
    TransferTimeoutError,
    TrustError,
    WithdrawnError,
    kind_of,
)
from trimtab_agent.states import MAX_ATTEMPTS, MAX_RETRIES, NEXT, after_failure

WAY = ["assigned", "fetching", "verifying", "staged", "checked", "measured", "trial", "committed"]


@pytest.fixture
def device(tmp_path):
    made = Device(tmp_path)
    yield made
    made.close()


@pytest.fixture
def second(device):
    """A device on which version 1 is active, and that checks its health."""
    device.update(1, package("1"))
    device.world.has_health = True
    device.told.clear()
    device.world.calls.clear()
    return device


def package(version, **options):
    return small_package(version, model=version.encode() * 5000, **options)


def slower(p50_us):
    latency = msgspec.structs.replace(MEASUREMENT.latency, p50_us=p50_us)
    return msgspec.structs.replace(MEASUREMENT, latency=latency)


def versions(device):
    return {path.name for path in (device.directory / "packages" / "versions").iterdir()}


def links(device):
    return {path.name for path in (device.directory / "packages").iterdir() if path.is_symlink()}


def test_every_state_has_an_end():
    for start in get_args(State):
        state = start
        for _ in NEXT:
            state = NEXT.get(state, state)
        assert state in ("committed", "refused", "rolled_back")


def test_an_update_that_succeeds(device):
    report = device.update(1, package("1"), trial="t-9")
    assert device.told == WAY
    assert (report.outcome, report.active, report.failure) == ("active", "model-1.json", None)
    assert (report.counter, report.trial, report.device) == (1, "t-9", "dev-1")
    assert report.target_sha256 == package("1").sha256
    assert None not in (report.measurement, report.golden, report.transfer)
    assert report.health == Health(runs=0, failures=0, probation_s=0.0)
    assert report.started == "2026-11-22T12:00:00Z"
    assert device.reports == [report]
    assert device.active == "model-1.json"
    assert device.run() is None


def test_a_second_version_is_measured_in_turns_with_the_first(second):
    report = second.update(2, package("2"))
    assert second.told == WAY
    assert "measure" not in second.world.calls
    assert report.comparison.target == "model-1.json"
    assert {(g.gate, g.against, g.verdict) for g in report.gates} == {
        ("latency", "running", "kept"),
        ("memory", "running", "kept"),
        ("energy", "running", "unknown"),
    }
    assert (second.store.previous.manifest.version, second.store.committed) == ("1", None)


FAILURES = [
    ("manifest", TrustError("unsigned"), "assigned", "refused", "trust"),
    ("pull", IntegrityError("chunk ab"), "fetching", "refused", "integrity"),
    ("pull", StorageError("full"), "fetching", "refused", "storage"),
    ("check_golden", GoldenError("off by 3"), "staged", "refused", "golden"),
    ("compare", MeasurementError("killed"), "checked", "refused", "measurement"),
    ("before_switch", HookError("says no"), "measured", "refused", "hook"),
    ("after_switch", HookError("says no"), "trial", "rolled_back", "hook"),
    ("check_health", HealthError("is ill"), "trial", "rolled_back", "health"),
]


@pytest.mark.parametrize(("work", "error", "state", "outcome", "reason"), FAILURES)
def test_a_failure_leaves_the_version_before_active(second, work, error, state, outcome, reason):
    second.world.faults[work] = [error]
    report = second.update(2, package("2"))
    assert (report.outcome, report.active) == (outcome, "model-1.json")
    assert report.failure.state == state
    assert (report.failure.reason, report.failure.message) == (reason, str(error))
    assert second.told[-1] == outcome
    assert second.active == "model-1.json"
    assert versions(second) == {package("1").sha256}
    assert links(second) == {"current"}
    assert ("after_rollback" in second.world.calls) == (outcome == "rolled_back")


@pytest.mark.parametrize(("work", "error", "state", "outcome", "reason"), FAILURES)
def test_a_kill_between_a_failure_and_its_report_does_not_try_again(
    second, work, error, state, outcome, reason
):
    second.world.faults[work] = [error]
    settle = second.memory.settle
    second.memory.settle = lambda report: (_ for _ in ()).throw(PowerCut())
    with pytest.raises(PowerCut):
        second.update(2, package("2"))
    second.memory.settle = settle
    second.boot()
    second.world.calls.clear()
    report = second.run()
    assert (report.outcome, report.failure.state, report.failure.reason) == (
        outcome, state, reason,
    )  # fmt: skip
    assert set(second.world.calls) <= {"after_rollback"}
    assert second.active == "model-1.json"


def test_what_failed_before_stays_the_way_back(second):
    second.update(2, package("2"))
    second.world.faults["check_health"] = [HealthError("is ill")]
    second.update(3, package("3"))
    assert (second.active, second.store.previous.manifest.version) == ("model-2.json", "1")
    assert versions(second) == {package("1").sha256, package("2").sha256}


def test_a_first_package_that_fails_leaves_nothing_active(device):
    device.world.faults["after_switch"] = [HookError("no")]
    report = device.update(1, package("1"))
    assert (report.outcome, report.active, device.active) == ("rolled_back", None, None)
    assert versions(device) == set()


@pytest.mark.parametrize(
    ("budget", "p50_us", "gates", "reason", "message"),
    [
        (Budget(), 3000.0, Gates(), "latency_running", "latency is 2 times the running version's"),
        (Budget(latency_p95_us=100.0), 1500.0, Gates(), "latency_budget", "1500 us, limit 100"),
        (Budget(peak_memory_bytes=1000), 1500.0, Gates(), "memory_budget", "33554432 bytes, limit"),
        (Budget(latency_p95_us=100.0), 3000.0, Gates(budget=False, latency_ratio=None), None, ""),
        (Budget(energy_mj=1.0), 1500.0, Gates(), None, ""),
    ],
)
def test_a_package_that_misses_a_gate_never_runs(second, budget, p50_us, gates, reason, message):
    second.world.measurements["model-2.json"] = slower(p50_us)
    report = second.update(2, package("2", budget=budget), gates=gates)
    assert report.measurement.latency.p50_us == p50_us
    if reason is None:
        assert report.outcome == "active"
        assert all(gate.verdict != "missed" for gate in report.gates)
        return
    assert (report.outcome, report.failure.state) == ("refused", "measured")
    assert report.failure.reason == reason
    assert message in report.failure.message
    assert any(gate.verdict == "missed" for gate in report.gates)
    assert not {"before_switch", "after_switch"} & set(second.world.calls)


@pytest.mark.parametrize(
    ("running", "gates"),
    [
        ("other", Gates()),
        ("model", Gates(latency_ratio=None, memory_ratio=None, energy_ratio=None)),
    ],
)
def test_where_nothing_is_compared_the_version_is_measured_alone(device, running, gates):
    device.update(1, package("1", name=running))
    device.world.calls.clear()
    report = device.update(2, package("2"), gates=gates)
    assert (report.outcome, report.comparison) == ("active", None)
    assert "compare" not in device.world.calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hardware": Hardware(architectures=("aarch64",))}, "is for aarch64; this device is x86"),
        ({"hardware": Hardware(min_ram_bytes=2**40)}, "needs 1099511627776 bytes of memory"),
        ({"runtime": "openvino"}, "needs the runtime openvino; on this device: tflite"),
    ],
)
def test_a_package_for_another_kind_of_device_is_not_fetched(device, options, message):
    report = device.update(1, package("1", **options))
    assert report.outcome == "refused"
    assert message in report.failure.message
    assert "pull" not in device.world.calls


def test_a_manifest_under_another_name_is_refused(device):
    device.world.packages["other-1.json"] = package("1")
    device.updater.offer(assignment_message(1, "other-1.json"))
    report = device.run()
    assert report.failure.message == "other-1.json is the manifest of model-1.json"


def test_a_package_that_does_not_fit_is_not_fetched(tmp_path):
    device = Device(tmp_path, free=lambda _: 1000)
    report = device.update(1, package("1"))
    assert report.failure.reason == "storage"
    assert "1000 are free" in report.failure.message
    assert "pull" not in device.world.calls
    device.close()


def test_a_version_that_is_installed_needs_no_room(tmp_path):
    free = [10**9]
    device = Device(tmp_path, free=lambda _: free[0])
    device.update(1, package("1"))
    free[0] = 0
    assert device.update(2, package("1")).outcome == "active"
    device.close()


@pytest.mark.parametrize("work", ["verify_assignment", "manifest", "pull"])
@pytest.mark.parametrize(
    "error", [TransferTimeoutError("nothing came"), BrokerError("gone"), ExpiredError("old"),
              HelperProcessError("died")]
)  # fmt: skip
def test_what_may_pass_is_waited_for(device, work, error):
    device.world.faults[work] = [error] * 3
    assert device.update(1, package("1")).outcome == "active"
    assert device.world.calls.count(work) == 4


def test_a_site_that_is_offline_for_days_is_updated_when_it_is_back(device):
    device.world.faults["pull"] = [BrokerError("no connection")] * 10_000
    device.assign(1, package("1"))
    while device.world.uptime_s < 3 * 86400:
        step = device.updater.step()
        device.world.uptime_s += step.wait_s
        if int(device.world.uptime_s) % 7 == 0:
            device.boot()
    tries = device.world.calls.count("pull")
    assert tries < 500
    device.world.faults.clear()
    device.updater.reconnected()
    assert device.run().outcome == "active"


def test_a_package_that_nobody_ever_sends_is_given_up_in_the_end(device, monkeypatch):
    monkeypatch.setattr("trimtab_agent.updater.MAX_RETRIES", 20)
    device.world.faults["pull"] = [TransferTimeoutError("nothing came")] * 50
    report = device.update(1, package("1"))
    assert (report.outcome, report.failure.reason) == ("refused", "transfer_timeout")
    assert device.world.calls.count("pull") == 21
    assert MAX_RETRIES > 30 * 24


def test_the_waits_grow_over_restarts(device):
    device.world.faults["pull"] = [TransferTimeoutError("nothing came")] * 50
    device.assign(1, package("1"))
    for _ in range(40):
        step = device.updater.step()
        device.boot()  # tries at once
    waits = []
    for _ in range(8):
        step = device.updater.step()
        waits.append(step.wait_s)
        device.world.uptime_s += step.wait_s
    assert max(waits) > 300


def test_the_same_counter_again_does_nothing(device):
    device.update(1, package("1"))
    calls = list(device.world.calls)
    device.updater.offer(assignment_message(1, "model-1.json"))
    assert device.run() is None
    assert device.world.calls == calls  # not even verified: the broker sends it on every connect
    device.updater.offer(assignment_message(1, "model-1.json", trial="other"))
    assert device.run() is None
    assert len(device.reports) == 1


def test_a_lower_counter_is_refused(device):
    device.update(5, package("1"))
    for _ in range(2):
        device.updater.offer(assignment_message(4, "model-1.json"))
        with pytest.raises(TrustError, match="has counter 4; 5 was accepted before") as caught:
            device.run()
        assert caught.value.reason == "replay"
        device.boot()


def test_chunks_that_a_power_cut_tore_are_fetched_again(second):
    second.assign(2, package("2"))
    second.run_to("verifying")
    for path in (second.directory / "packages" / "chunks").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    second.boot()
    second.world.faults["pull"] = [BrokerError("gone")]
    assert second.run().outcome == "active"


WORKS = ["manifest", "pull", "check_golden", "compare", "before_switch", "after_switch",
         "check_health"]  # fmt: skip


@pytest.mark.parametrize("work", WORKS)
def test_a_kill_during_any_work_resumes_there(second, work):
    second.world.faults[work] = [PowerCut()]
    with pytest.raises(PowerCut):
        second.update(2, package("2"))
    second.boot()
    second.world.calls.clear()
    report = second.run()
    assert (report.outcome, second.active) == ("active", "model-2.json")
    assert second.world.calls[0] == work
    assert len(second.reports) == 2


@pytest.mark.parametrize("work", WORKS[2:])
def test_a_package_that_takes_the_machine_down_each_time_is_given_up(second, work):
    second.world.faults[work] = [PowerCut()] * 9
    with pytest.raises(PowerCut):
        second.update(2, package("2"))
    for _ in range(MAX_ATTEMPTS - 1):
        second.boot()
        with pytest.raises(PowerCut):
            second.run()
    second.boot()
    report = second.run()
    trial = work in ("after_switch", "check_health")
    assert report.outcome == ("rolled_back" if trial else "refused")
    assert (report.failure.reason, report.active) == ("attempts", "model-1.json")
    assert report.failure.message.startswith("the device went down 3 times while ")


def test_an_agent_that_is_stopped_on_purpose_blames_nobody(second):
    second.assign(2, package("2"), probation_s=1000.0)
    for _ in range(3 * MAX_ATTEMPTS):
        second.run(until=lambda step: step.wait_s)
        second.updater.stop()
        second.boot()
    assert second.run().outcome == "active"


def test_a_kill_after_the_switch_does_not_forget_that_it_was_made(second):
    reach = second.memory.reach
    second.memory.reach = lambda step, found: (
        (_ for _ in ()).throw(PowerCut()) if step == "trial" else reach(step, found)
    )
    with pytest.raises(PowerCut):
        second.update(2, package("2"))
    assert second.active == "model-2.json"
    second.boot()
    second.assign(3, package("3"))
    report = second.run()
    assert (report.counter, report.outcome, report.active) == (2, "rolled_back", "model-1.json")
    assert second.run().active == "model-3.json"


# The trial


def test_a_version_is_on_trial_for_the_probation_time(second):
    second.world.interval_s = 30.0
    report = second.update(2, package("2"), probation_s=100.0)
    assert report.health == Health(runs=4, failures=0, probation_s=100.0)
    assert second.world.calls.count("after_switch") == 1


def test_time_that_the_device_was_off_is_no_probation(second):
    second.assign(2, package("2"), probation_s=1000.0)
    second.run_to("trial")
    for _ in range(3):
        step = second.updater.step()
        second.world.uptime_s += step.wait_s
    second.updater.step()
    kept = second.memory.pending.findings.trial.elapsed_s
    assert 0 < kept <= 180
    second.world.clock_set_by_s = 10.0**8
    second.world.uptime_s = 0.0  # a new boot: the monotonic clock begins again
    second.boot()
    second.world.calls.clear()
    report = second.run()
    assert report.outcome == "active"
    assert second.world.uptime_s == pytest.approx(1000 - kept)
    assert "after_switch" not in second.world.calls


@pytest.mark.parametrize(
    ("faults", "allowed", "runs", "outcome"),
    [
        ([None], 0, 1, "active"),
        ([HealthError("ill")], 0, 1, "rolled_back"),
        ([HealthError("ill"), None], 1, 2, "active"),
        ([HealthError("ill")] * 2, 1, 2, "rolled_back"),
        ([HealthError("ill"), HealthError("ill"), None], 2, 3, "active"),
    ],
)
def test_health_is_asked_at_least_once(second, faults, allowed, runs, outcome):
    second.world.failures_allowed = allowed
    second.world.faults["check_health"] = list(faults)
    report = second.update(2, package("2"))
    assert (report.outcome, report.health.runs) == (outcome, runs)
    assert report.health.failures == sum(fault is not None for fault in faults)


def test_a_hook_after_a_rollback_that_fails_is_told(second):
    second.world.faults["check_health"] = [HealthError("is ill")]
    second.world.faults["after_rollback"] = [HookError("the hook is broken")]
    report = second.update(2, package("2"))
    assert report.failure.message == "is ill; the hook is broken"
    assert (report.outcome, report.active) == ("rolled_back", "model-1.json")


# What comes in between


@pytest.mark.parametrize("state", WAY[:-1])
def test_a_newer_assignment_takes_the_place_of_one_under_way(second, state):
    second.assign(2, package("2"), probation_s=1000.0)
    second.run_to(state)
    second.assign(3, package("3"))
    report = second.run()
    assert (report.counter, report.failure.reason) == (2, "superseded")
    assert report.outcome == ("rolled_back" if state == "trial" else "refused")
    assert report.active == "model-1.json"
    newer = second.run()
    assert (newer.counter, newer.outcome, newer.active) == (3, "active", "model-3.json")
    assert newer.comparison.target == "model-1.json"


def test_a_newer_assignment_ends_a_transfer(second):
    second.assign(2, package("2"))
    second.run_to("fetching")
    assert second.updater.step(lambda: True).error is None
    assert second.memory.pending.step == "fetching"
    assert second.run().outcome == "active"


def test_rubbish_on_the_topic_ends_nothing(second):
    second.assign(2, package("2"), probation_s=100.0)
    second.run_to("trial")
    second.updater.offer(b"rubbish")
    step = second.updater.step()
    assert isinstance(step.error, PackageError)
    assert second.run().outcome == "active"


def test_a_trial_goes_on_while_a_newer_assignment_cannot_be_proven(second):
    second.assign(2, package("2"), probation_s=100.0)
    second.run_to("trial")
    second.world.faults["verify_assignment"] = [BrokerError("gone")] * 100
    second.assign(3, package("3"))
    report = second.run()
    assert (report.counter, report.outcome) == (2, "active")


@pytest.mark.parametrize("state", ["assigned", "fetching", "measured"])
def test_a_paused_device_holds_before_the_network_and_the_switch(second, state):
    second.assign(2, package("2"))
    second.run_to(state)
    second.updater.pause()
    second.boot()
    assert second.updater.paused
    second.world.calls.clear()
    assert second.run() is None
    assert (second.world.calls, second.memory.pending.step) == ([], state)
    second.updater.resume()
    assert second.run().outcome == "active"


def test_a_paused_device_takes_no_new_assignment_and_ends_its_trial(second):
    second.assign(2, package("2"), probation_s=100.0)
    second.run_to("trial")
    second.updater.pause()
    second.assign(3, package("3"))
    assert second.run().counter == 2
    assert second.run() is None
    second.updater.resume()
    assert second.run().counter == 3


@pytest.mark.parametrize("state", [*WAY[:-1], "committed"])
def test_a_rollback_that_is_ordered(second, state):
    second.update(2, package("2"))
    if state != "committed":
        second.assign(3, package("3"), probation_s=1000.0)
        second.run_to(state)
    report = second.updater.roll_back()
    assert (report.outcome, report.failure.reason) == ("rolled_back", "command")
    expected = "model-2.json" if state == "trial" else "model-1.json"
    assert (report.active, second.active) == (expected, expected)
    assert second.memory.counter == (2 if state == "committed" else 3)
    assert second.run() is None


def test_a_rollback_that_is_ordered_while_one_fails_leaves_it_its_reason(second):
    second.world.faults["check_health"] = [HealthError("is ill")]
    settle, refusals = second.memory.settle, [StorageError("full")]

    def refuse(report):
        if refusals:
            raise refusals.pop()
        settle(report)

    second.memory.settle = refuse
    second.assign(2, package("2"))
    second.run(until=lambda step: isinstance(step.error, StorageError))
    report = second.updater.roll_back()
    assert (report.failure.reason, report.active) == ("health", "model-1.json")
    assert len(second.reports) == 2


def test_a_rollback_after_the_database_was_lost_says_what_to_do(second):
    second.update(2, package("2"))
    second.memory.close()
    damage(second.directory / "state.sqlite", b"rubbish" * 1000)
    second.boot()
    with pytest.raises(CallerError, match="assign the package that shall be active"):
        second.updater.roll_back()
    assert second.active == "model-2.json"
    assert second.update(3, package("1")).outcome == "active"


def test_a_kill_in_an_ordered_rollback_ends_it_at_the_next_start(second):
    second.update(2, package("2"))
    second.world.faults["after_rollback"] = [PowerCut()]
    with pytest.raises(PowerCut):
        second.updater.roll_back()
    second.boot()
    report = second.run()
    assert (report.target, report.failure.state) == ("model-2.json", "committed")
    assert (report.counter, second.active) == (2, "model-1.json")


def test_without_a_version_before_there_is_nothing_to_roll_back_to(second):
    assert second.updater.roll_back() is None
    assert second.active == "model-1.json"


# The disk


@pytest.mark.parametrize(
    ("method", "calls_an_update"),
    [("accept", 1), ("begin", 6), ("reach", 6), ("keep", 4), ("settle", 1)],
)
def test_a_database_that_refuses_is_tried_again(second, method, calls_an_update):
    """The n-th write fails, for every n: nothing is lost, and nothing ends the agent."""
    for nth in range(calls_an_update):
        original = getattr(second.memory, method)
        calls = iter(range(10**6))

        def refuse(*args, _original=original, _nth=nth, _calls=calls, **options):
            if next(_calls) == _nth:
                raise StorageError("the disk is full")
            return _original(*args, **options)

        setattr(second.memory, method, refuse)
        second.assign(nth + 2, package(str(nth)))
        report = second.run()
        setattr(second.memory, method, original)
        assert (report.outcome, second.active) == ("active", f"model-{nth}.json")


def test_a_database_that_cannot_be_read_for_a_while_ends_nothing(second):
    real, refused = second.memory._one, []

    def refuse(query):
        if len(refused) < 20 and len(refused) % 2 == 0:
            refused.append(query)
            raise StorageError("I/O error")
        refused.append(query)
        return real(query)

    second.memory._one = refuse
    second.assign(2, package("2"), probation_s=100.0)
    for _ in range(200):
        step = second.updater.step()
        if step.ended:
            break
        second.world.uptime_s += step.wait_s or 0.0
    assert (step.ended.outcome, second.active) == ("active", "model-2.json")
    assert len(refused) > 20


@pytest.mark.parametrize("method", ["rollback", "commit", "collect_garbage"])
def test_a_disk_that_refuses_is_tried_again(second, method):
    original = getattr(second.store, method)
    faults = [StorageError("read-only")] * 3

    def refuse(*args):
        if faults:
            raise faults.pop()
        return original(*args)

    setattr(second.store, method, refuse)
    if method == "rollback":
        second.world.faults["check_health"] = [HealthError("ill")]
    report = second.update(2, package("2"))
    assert report.outcome == ("rolled_back" if method == "rollback" else "active")
    second.world.uptime_s += 86400
    second.run()
    second.world.uptime_s += 86400
    second.run()
    assert len(versions(second)) == (1 if method == "rollback" else 2)


def damage(path, data=b"rot"):
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("chunks", ["kept", "lost"])
@pytest.mark.parametrize("name", ["model/weights.bin", "golden.npz", "manifest.json"])
def test_a_damaged_active_version_is_made_again(device, name, chunks):
    device.update(1, package("1"))
    damage(device.store.current.path / name)
    if chunks == "lost" and name != "manifest.json":
        shutil.rmtree(device.directory / "packages" / "chunks")
        (device.directory / "packages" / "chunks").mkdir()
        device.world.faults["pull"] = [BrokerError("gone")]
    device.boot()
    device.run()
    device.run()
    assert device.store.damage(device.store.current) is None
    assert device.store.current.sha256 == package("1").sha256


def test_an_active_version_that_is_lost_gives_way_to_the_one_before(second):
    second.update(2, package("2"))
    damage(second.store.current.path / "manifest.json")
    shutil.rmtree(second.directory / "packages" / "chunks")
    (second.directory / "packages" / "chunks").mkdir()
    second.boot()
    assert second.active == "model-1.json"
    assert second.update(3, package("2")).outcome == "active"


def test_a_damaged_version_that_is_assigned_again_is_made_again(second):
    second.update(2, package("2"))
    damage(second.store.previous.model)
    assert second.update(3, package("1")).outcome == "active"
    assert second.store.damage(second.store.current) is None


def test_a_database_that_is_lost_during_a_trial_goes_back(second):
    second.assign(2, package("2"), probation_s=1000.0)
    second.run_to("trial")
    second.memory.close()
    damage(second.directory / "state.sqlite", b"rubbish" * 1000)
    second.boot()
    assert second.active == "model-1.json"
    assert second.memory.pending is None
    assert (second.directory / "state.sqlite.damaged").read_bytes().startswith(b"rubbish")
    assert second.update(3, package("3")).outcome == "active"


def test_every_reason_is_documented():
    """Callers' own errors and bases that nothing raises are no reasons for an update to end."""
    page = (Path(__file__).parents[2] / "docs" / "updates.md").read_text()
    listed = {
        (word, int(row.split("|")[-2]))
        for row in page.partition("## Reasons")[2].splitlines()
        if row.startswith("| `")
        for word in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert all(kind_of(word).exit_code == code for word, code in listed)
    kinds = [PackageError, DeviceError, NetworkError, WithdrawnError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    mine = [kind for kind in kinds if kind.__module__ == "trimtab_agent.errors"]
    words = {word for kind in mine for word in kind.reasons()}
    bases = {"package", "device", "hardware", "gate", "withdrawn"}
    assert {word for word, _ in listed} == words - bases - {"interrupted"}


def test_after_failure():
    assert {after_failure(state, switching=False) for state in NEXT} == {"refused"}
    assert {after_failure(state, switching=True) for state in NEXT} == {"rolled_back"}
    assert after_failure("committed", switching=False) == "rolled_back"


@pytest.mark.parametrize("why", ["superseded", "health", "attempts"])
def test_a_version_that_is_assigned_again_stays_active_whatever_comes_of_it(second, why):
    second.update(2, package("2"))
    second.assign(3, package("2"), probation_s=1000.0)
    second.run_to("trial")
    if why == "superseded":
        second.assign(4, package("4"))
    elif why == "health":
        second.world.faults["check_health"] = [HealthError("is ill")]
    else:
        for _ in range(MAX_ATTEMPTS):
            second.updater.step()
            second.boot()
    report = second.run()
    assert (report.outcome, report.failure.reason) == ("refused", why)
    assert (report.active, second.store.previous.manifest.version) == ("model-2.json", "1")


def test_a_version_that_is_assigned_again_can_be_ordered_back(second):
    second.update(2, package("2"))
    second.assign(3, package("2"), probation_s=1000.0)
    second.run_to("trial")
    assert second.updater.roll_back().active == "model-1.json"
    assert [report.outcome for report in second.reports[-2:]] == ["refused", "rolled_back"]
