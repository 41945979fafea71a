"""The update's state machine: each way through it, and any order of events, faults and kills."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from support.manifests import small_package
from support.updates import PowerCut, World, assignment_message
from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import Hardware
from trimtab_agent.contract.messages import Report, State
from trimtab_agent.errors import (
    GoldenError,
    IntegrityError,
    MeasurementError,
    StorageError,
    TransferTimeoutError,
    TrustError,
)
from trimtab_agent.outbox import Outbox
from trimtab_agent.state import Memory
from trimtab_agent.store import Store
from trimtab_agent.updater import MAX_ATTEMPTS, NEXT, RETRY_DELAYS_S, Updater, after_failure


class Device:
    """An updater on a real store and database, in a world that fails on demand."""

    def __init__(self, directory, *, free=None):
        self.directory = directory
        self.world = World()
        self.told = []
        self.options = {"free": free} if free else {}
        self.memory = None
        self.boot()

    def boot(self):
        """What a start after a power cut does."""
        if self.memory:
            self.memory.close()
        self.store = Store(self.directory / "packages", **self.options)
        self.memory = Memory(self.directory / "state.sqlite")
        self.updater = Updater(
            memory=self.memory,
            store=self.store,
            source=self.world,
            bench=self.world,
            clock=self.world,
            notify=lambda progress: self.told.append(progress.state),
        )
        self.updater.clean_up()

    @property
    def active(self):
        current = self.store.current
        return current.manifest.target_name if current else None

    @property
    def reports(self):
        return [codec.decode(data, Report, what="report") for _, data in self.memory.outbox]

    def update(self, counter, package, **options):
        target = self.world.release(package)
        assert self.updater.accept(assignment_message(counter, target, **options))
        return self.updater.run()


@pytest.fixture
def device(tmp_path):
    made = Device(tmp_path)
    yield made
    made.memory.close()


def package(version, **options):
    return small_package(version, model=version.encode() * 5000, **options)


def test_every_state_has_an_end():
    for start in get_args(State):
        state = start
        for _ in NEXT:
            state = NEXT.get(state, state)
        assert state in ("measured", "refused", "rolled_back")


def test_an_update_that_succeeds(device):
    report = device.update(1, package("1"), trial="t-9")
    assert device.told == [
        "assigned", "fetching", "verifying", "staged", "checked", "active", "measured",
    ]  # fmt: skip
    assert (report.outcome, report.active, report.failure) == ("active", "model-1.json", None)
    assert (report.counter, report.trial, report.device) == (1, "t-9", "dev-1")
    assert report.target_sha256 == package("1").sha256
    assert None not in (report.measurement, report.golden, report.transfer)
    assert report.started == "2026-11-22T12:00:00Z"
    assert device.reports == [report]
    assert device.active == "model-1.json"
    assert device.updater.run() is None


@pytest.mark.parametrize(
    ("work", "error", "state", "outcome", "reason"),
    [
        ("manifest", TrustError("unsigned"), "assigned", "refused", "trust"),
        ("pull", IntegrityError("chunk ab"), "fetching", "refused", "integrity"),
        ("pull", StorageError("full"), "fetching", "refused", "storage"),
        ("check_golden", GoldenError("off by 3"), "staged", "refused", "golden"),
        ("measure", MeasurementError("killed"), "active", "rolled_back", "measurement"),
    ],
)
def test_a_failure_leaves_the_version_before_active(device, work, error, state, outcome, reason):
    device.update(1, package("1"))
    device.world.faults[work] = [error]
    report = device.update(2, package("2"))
    assert (report.outcome, report.active) == (outcome, "model-1.json")
    assert report.failure.state == state
    assert (report.failure.reason, report.failure.message) == (reason, str(error))
    assert device.told[-1] == outcome
    assert device.active == "model-1.json"
    names = {path.name for path in (device.directory / "packages" / "versions").iterdir()}
    assert names == {package("1").sha256}


def test_a_first_package_that_fails_leaves_nothing_active(device):
    device.world.faults["measure"] = [MeasurementError("killed")]
    report = device.update(1, package("1"))
    assert (report.outcome, report.active, device.active) == ("rolled_back", None, None)


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
    device.updater.accept(assignment_message(1, "other-1.json"))
    report = device.updater.run()
    assert report.failure.message == "other-1.json is the manifest of model-1.json"


def test_a_package_that_does_not_fit_is_not_fetched(tmp_path):
    device = Device(tmp_path, free=lambda _: 1000)
    report = device.update(1, package("1"))
    assert report.failure.reason == "storage"
    assert "1000 are free" in report.failure.message
    assert "pull" not in device.world.calls
    device.memory.close()


def test_a_version_that_is_installed_needs_no_room(tmp_path):
    free = [10**9]
    device = Device(tmp_path, free=lambda _: free[0])
    device.update(1, package("1"))
    free[0] = 0
    assert device.update(2, package("1")).outcome == "active"
    device.memory.close()


def test_a_network_that_comes_back_is_waited_for(device):
    device.world.faults["pull"] = [TransferTimeoutError("nothing came")] * 2
    assert device.update(1, package("1")).outcome == "active"
    assert device.world.slept_s == sum(RETRY_DELAYS_S[:2])


def test_a_chunk_that_never_comes_ends_the_update(device):
    device.world.faults["pull"] = [TransferTimeoutError("nothing came")] * 5
    report = device.update(1, package("1"))
    assert (report.outcome, report.failure.reason) == ("refused", "transfer_timeout")
    assert device.world.slept_s == sum(RETRY_DELAYS_S)


def test_the_same_counter_again_does_nothing(device):
    device.update(1, package("1"))
    calls = list(device.world.calls)
    assert not device.updater.accept(assignment_message(1, "model-1.json"))
    assert device.world.calls == calls  # not even verified: the broker sends it on every connect
    assert not device.updater.accept(assignment_message(1, "model-1.json", trial="other"))
    assert device.updater.run() is None


def test_a_lower_counter_is_refused(device):
    device.update(5, package("1"))
    with pytest.raises(TrustError, match="has counter 4; 5 was accepted before"):
        device.updater.accept(assignment_message(4, "model-1.json"))
    device.boot()
    with pytest.raises(TrustError, match="has counter 4; 5 was accepted before"):
        device.updater.accept(assignment_message(4, "model-1.json"))


@pytest.mark.parametrize("work", ["manifest", "pull", "check_golden", "measure"])
def test_a_kill_during_any_work_resumes_there(device, work):
    device.update(1, package("1"))
    device.world.faults[work] = [PowerCut()]
    with pytest.raises(PowerCut):
        device.update(2, package("2"))
    device.boot()
    device.world.calls.clear()
    report = device.updater.run()
    assert (report.outcome, device.active) == ("active", "model-2.json")
    assert device.world.calls[0] == work
    assert len(device.reports) == 2


def test_a_package_that_takes_the_machine_down_each_time_is_given_up(device):
    device.update(1, package("1"))
    device.world.faults["measure"] = [PowerCut()] * 9
    with pytest.raises(PowerCut):
        device.update(2, package("2"))
    for _ in range(MAX_ATTEMPTS - 1):
        device.boot()
        with pytest.raises(PowerCut):
            device.updater.run()
    device.boot()
    report = device.updater.run()
    assert (report.outcome, report.active) == ("rolled_back", "model-1.json")
    assert report.failure.message == "the device went down 3 times while the update was 'active'"


def test_a_kill_between_a_rollback_and_its_report_measures_again(device):
    device.update(1, package("1"))
    device.world.faults["measure"] = [MeasurementError("killed")]
    settle = device.memory.settle
    device.memory.settle = lambda report: (_ for _ in ()).throw(PowerCut())
    with pytest.raises(PowerCut):
        device.update(2, package("2"))
    device.memory.settle = settle
    assert device.active == "model-1.json"
    device.boot()
    report = device.updater.run()
    assert (report.outcome, report.active, device.active) == (
        "active", "model-2.json", "model-2.json",
    )  # fmt: skip


FAULTS = [
    None,
    PowerCut(),
    TransferTimeoutError("slow"),
    IntegrityError("bad"),
    GoldenError("off"),
    MeasurementError("dead"),
    StorageError("full"),
]


@settings(
    max_examples=30,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: what is active passed its checks, and is whole."""

    @initialize()
    def start(self):
        self.directory = Path(tempfile.mkdtemp())
        self.device = Device(self.directory)
        self.counter = 0
        self.active = self.previous = None  # as the reports so far say

    def teardown(self):
        if hasattr(self, "device"):
            self.device.memory.close()
            shutil.rmtree(self.directory)

    @rule(
        version=st.sampled_from("abc"),
        work=st.sampled_from(["manifest", "pull", "check_golden", "measure"]),
        faults=st.lists(st.sampled_from(FAULTS), max_size=3),
    )
    def assign(self, version, work, faults):
        if self.device.memory.pending:
            return
        self.device.world.faults[work] = list(faults)
        self.counter += 1
        target = self.device.world.release(package(version))
        assert self.device.updater.accept(assignment_message(self.counter, target))
        self.run()

    @rule()
    def run(self):
        pending = self.device.memory.pending
        before = len(self.device.reports)
        try:
            report = self.device.updater.run()
        except PowerCut:
            self.device.boot()
            return
        assert (report is None) == (pending is None)
        assert len(self.device.reports) == before + (report is not None)
        if report:
            assert report.active == self.device.active
            assert (report.outcome == "active") == (report.failure is None)
            self.expect(report)
            assert self.device.active == self.active

    def expect(self, report):
        """The rules again, on names instead of directories."""
        if report.outcome == "refused":
            return
        if report.target != self.active:
            self.active, self.previous = report.target, self.active
        if report.outcome == "rolled_back":
            self.active, self.previous = self.previous, None

    @rule()
    def power_cut(self):
        self.device.boot()

    @rule(back=st.integers(0, 3))
    def replay(self, back):
        if self.counter - back <= 0 or self.device.memory.pending:
            return
        message = assignment_message(self.counter - back, "model-a.json", trial="replayed")
        try:
            assert not self.device.updater.accept(message)
        except TrustError:
            assert back > 0

    @rule()
    def acknowledge(self):
        Outbox(self.device.memory, lambda _: None).acknowledge(
            tuple(report.id for report in self.device.reports)
        )

    @invariant()
    def whole(self):
        if not hasattr(self, "device"):
            return
        current = self.device.store.current
        if current:
            expected = package(current.manifest.version)
            assert current.sha256 == expected.sha256
            assert current.model.read_bytes() == current.manifest.version.encode() * 5000
        if self.device.memory.pending is None:
            assert list((self.directory / "packages" / "staging").iterdir()) == []


TestAnyOrder = AnyOrder.TestCase


def test_after_failure():
    assert {state: after_failure(state) for state in NEXT} == {
        "assigned": "refused",
        "fetching": "refused",
        "verifying": "refused",
        "staged": "refused",
        "checked": "refused",
        "active": "rolled_back",
    }
