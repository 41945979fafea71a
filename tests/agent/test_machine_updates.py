"""One device in any storm: what is active is proven, and what was assigned ends as it should."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.chunk_packs import damage, packed
from support.fleet_of_one import HERE, KIND_OF, KINDS, PACKAGES, TARGETS, Expected, Host, Machine
from support.scratch import make_scratch
from support.updates import PowerCut
from trimtab_agent.contract import topics
from trimtab_agent.contract.messages import Assignment
from trimtab_agent.errors import (
    BrokerError,
    DamagedError,
    HelperProcessError,
    PackageError,
)

NETWORK_OR_SWITCH = {"verify_assignment", "manifest", "pull", "before_switch"}
NAME_OF = {made.sha256: kind for kind, made in PACKAGES.items()}
PORTS = ["verify_assignment", "manifest", "pull", "check_golden", "measure", "compare",
         "before_switch", "after_switch", "after_rollback", "check_health"]  # fmt: skip


KIND = st.sampled_from([*sorted(KINDS), "good-a", "good-b", "good-c", "good-a", "good-b"])
TIMES = st.sampled_from([1, 1, 1, 2, 0])
TURNS = st.sampled_from([0, 1, 2, 4, 8, 8, 16])


class AnyStorm(RuleBasedStateMachine):
    """Messages lost, doubled and held back; a disk that refuses; clocks; the plug."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = make_scratch()
        self.machine = Machine(self.directory)
        self.host = Host()
        self.expected = Expected()

    def teardown(self) -> None:
        try:
            self.calm()
        finally:
            self.machine.close()
            shutil.rmtree(self.directory)

    @initialize(kinds=st.lists(st.sampled_from(["good-a", "good-b", "good-c"]), max_size=2))
    def begin(self, kinds):
        for kind in kinds:
            self.assign(kind, 0.0, 30.0, 1, 12)

    # What the host and the network do

    @rule(
        kind=KIND,
        probation_s=st.sampled_from([0.0, 0.0, 500.0]),
        days=st.sampled_from([30.0, 30.0, 30.0, -1.0]),
        times=TIMES,
        turns=TURNS,
    )
    def assign(self, kind, probation_s, days, times, turns):
        """A new assignment, that comes `times` times; also `deliver` may bring it."""
        world = self.machine.world
        message = self.host.assign(world, kind, probation_s=probation_s, days=days)
        self._bring(topics.assignment(HERE), message, times)
        self.turn(turns)

    @rule(
        action=st.sampled_from(["pause", "resume", "resume", "roll_back", "roll_back", "measure"]),
        days=st.sampled_from([1.0, 1.0, 1.0, -1.0]),
        times=TIMES,
        turns=TURNS,
    )
    def command(self, action, days, times, turns):
        message = self.host.command(self.machine.world, action, days=days)
        self._bring(topics.command(HERE), message, times)
        self.turn(turns)

    def _bring(self, topic, message, times):
        if self.machine.line.there:
            for _ in range(times):
                self.machine.line.deliver(topic, message)

    @precondition(lambda self: self.host.sent)
    @rule(back=st.integers(0, 8), times=TIMES, turns=TURNS)
    def deliver(self, back, times, turns):
        """Brings a message of before: late, again, in another order."""
        topic, message = self.host.sent[max(len(self.host.sent) - 1 - back, 0)]
        self._bring(topic, message, times)
        self.turn(turns)

    @rule(topic=st.sampled_from([topics.assignment, topics.command, topics.acknowledgement]))
    def rubbish(self, topic):
        self._bring(topic(HERE), b'{"rubbish": 1}', 1)

    @precondition(lambda self: self.machine.line.to_host)
    @rule(
        count=st.integers(1, 10),
        lose=st.booleans(),
        last_first=st.booleans(),
        acknowledge=st.sampled_from([True, True, False]),
    )
    def host_works(self, count, lose, last_first, acknowledge):
        """The host takes in some of what was sent to it, and acknowledges the reports."""
        for _ in range(min(count, len(self.machine.line.to_host))):
            message = self.machine.line.to_host.pop(-1 if last_first else 0)
            if lose:
                continue
            owed = self.host.take(*message)
            if owed and acknowledge:
                self._bring(topics.acknowledgement(HERE), owed, 1)

    @rule(there=st.booleans())
    def broker(self, there):
        if there and not self.machine.line.there:
            self._connect()
        self.machine.line.there = there

    def _connect(self):
        line = self.machine.line
        line.there = True
        line.connect(1.0)
        if self.host.retained:
            line.deliver(topics.assignment(HERE), self.host.retained)

    # What the device and its world do

    @rule(turns=TURNS)
    def turn(self, turns):
        for _ in range(turns):
            self._turn()

    def _turn(self):
        world = self.machine.world
        paused = self.machine.device.updater.paused
        world.calls.clear()
        try:
            self.machine.turn()
        except PowerCut:
            self._boot(None)
        except DamagedError:
            self._boot(None, blame=False)
        else:
            self.observe()
        assert not paused or not NETWORK_OR_SWITCH & set(world.calls)

    @rule(cut_after=st.none() | st.integers(0, 12))
    def pull_the_plug(self, cut_after):
        """Off and on again; perhaps off once more in the recovery."""
        self._boot(cut_after)

    @rule()
    def restart(self):
        try:
            self.machine.stop()
        except PowerCut:
            self._boot(None)
        else:
            self._boot(None, blame=False)

    def _boot(self, cut_after, *, blame=True):
        self.expected.cuts += blame
        while True:
            self.observe()
            try:
                self.machine.boot(cut_after=cut_after)
            except PowerCut:
                self.expected.cuts += 1
                cut_after = None
                continue
            if cut_after is None:
                break
            self.machine.disk.heal()
            break
        self.observe()

    @rule(
        mode=st.sampled_from(["cut", "cut", "full", "read-only", "broken"]),
        after=st.integers(0, 40),
        operations=st.sampled_from([1, 2, 5, 100]),
        turns=TURNS,
    )
    def disk_fails(self, mode, after, operations, turns):
        """The machine goes down, or the disk refuses, in the middle of what is done next."""
        self.machine.disk.fail(mode, after=after, operations=operations)
        self.turn(turns)

    @precondition(lambda self: self.machine.disk.fails)
    @rule()
    def disk_heals(self):
        self.machine.disk.heal()

    @rule(
        port=st.sampled_from(PORTS),
        errors=st.lists(
            st.sampled_from([None, BrokerError("gone"), HelperProcessError("died"), PowerCut()]),
            max_size=3,
        ),
    )
    def port_fails(self, port, errors):
        hooks = ("before_switch", "after_switch", "after_rollback", "check_health")
        if port in hooks:  # a command of the device meets no broker and has no helper
            errors = [each if isinstance(each, PowerCut) else None for each in errors]
        self.machine.world.faults[port] = errors

    @rule(seconds=st.sampled_from([1.0, 60.0, 600.0, 90_000.0]))
    def time_passes(self, seconds):
        self.machine.world.pass_time(seconds)

    @rule(skew_s=st.sampled_from([0, 0, -(10**9), -3600, 10**5, 10**8]))
    def set_clock(self, skew_s):
        self.machine.world.skew_s = float(skew_s)

    @precondition(lambda self: packed(self.directory / "packages" / "chunks"))
    @rule(number=st.integers(0, 20))
    def rot_chunk(self, number):
        chunks = self.directory / "packages" / "chunks"
        names = sorted(packed(chunks))
        damage(chunks, names[number % len(names)])
        self.expected.storms |= {"integrity"}

    # What must be

    def observe(self):
        """Tells the model what the device has done."""
        memory, expected = self.machine.device.memory, self.expected
        if self.machine.disk.refused:
            expected.storms |= {"storage"}
        if any(number > (expected.counter or 0) for number in self.host.assigned):
            expected.storms |= {"superseded"}
        if "roll_back" in self.host.commanded.values():
            expected.storms |= {"command"}
        for report in self.machine.device.reports:
            if report.id not in expected.reports:
                expected.end(report, KIND_OF[report.target])
        expected.accept(memory.counter)
        self._check()

    @invariant()
    def holds(self):
        self._check()

    def _check(self):
        device, expected = self.machine.device, self.expected
        pending = device.memory.pending
        possible = {expected.current}
        if pending and (pending.findings.switching or pending.step == "committed"):
            possible |= {pending.assignment.target, expected.previous}
        active = self._active()
        assert active in possible, f"{active} is active, not {possible}"
        if active and not (pending and pending.findings.switching):
            assert KINDS[KIND_OF[active]][0] == "active", "an unproven version runs"
        if active:
            assert KINDS[KIND_OF[active]][0] != "refused", "a refused version runs"
        self._check_reports(pending)

    def _active(self):
        link = self.directory / "packages" / "current"
        if not link.is_symlink():
            return None
        version = link.resolve()
        made = PACKAGES[NAME_OF[version.name]]
        files = {file.path: file.sha256 for file in made.manifest.files}
        files["manifest.json"] = made.sha256
        found = {
            str(path.relative_to(version)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in version.rglob("*")
            if path.is_file()
        }
        assert found == files, "the active version is not whole"
        return made.manifest.target_name

    def _check_reports(self, pending):
        expected = self.expected
        waiting = {report.id for report in self.machine.device.reports}
        assert set(expected.reports) == waiting | (set(expected.reports) & set(self.host.stored))
        ordered = [r for r in expected.reports.values() if _went_back_on_command(r)]
        commands = list(self.host.commanded.values()).count("roll_back")
        assert len(ordered) <= commands, "one command went back twice"
        ended = {report.counter for report in expected.reports.values()}
        open_ = {pending.assignment.counter} if pending else set()
        assert set(expected.accepted) == ended | open_, "an assignment ended without a report"

    def calm(self):
        """No more faults: everything ends, and ends right."""
        machine, host, world = self.machine, self.host, self.machine.world
        machine.disk.heal()
        world.faults.clear()
        world.skew_s = 0.0
        self._connect()
        self._deliver(topics.command(HERE), host.command(world, "resume"))
        self._settle()
        assert not machine.device.updater.paused
        before = self.expected.current
        self._deliver(topics.assignment(HERE), host.assign(world, "good-a"))
        self._settle()
        assert machine.device.active == self.expected.current == TARGETS["good-a"]
        if before not in (None, TARGETS["good-a"]):
            assert machine.device.store.previous.manifest.target_name == before
        self._check_no_litter()

    def _deliver(self, topic, message):
        self.machine.line.deliver(topic, message)

    def _settle(self):
        """Turns until nothing is left to do, with a host that answers."""
        machine, host = self.machine, self.host
        for _ in range(400):
            self._turn()
            while machine.line.to_host:
                owed = host.take(*machine.line.to_host.pop(0))
                if owed:
                    self._deliver(topics.acknowledgement(HERE), owed)
            idle = not machine.agent._mailbox.waiting and not machine.device.memory.pending
            if idle and not machine.device.reports and not self._offered():
                return
        raise AssertionError(f"never ends: {machine.device.memory.pending}")

    def _offered(self):
        """Says whether something waits that can still be proven."""
        offers = self.machine.device.updater._offers
        for message in offers._messages:
            with contextlib.suppress(PackageError):
                self.machine.world.read(message, Assignment)
                return True
        return False

    def _check_no_litter(self):
        self.machine.world.pass_time(86_400.0)
        for _ in range(3):
            self._turn()
        packages = self.directory / "packages"
        store = self.machine.device.store
        kept = {version.sha256 for version in (store.current, store.previous) if version}
        assert {path.name for path in (packages / "versions").iterdir()} == kept
        assert list((packages / "staging").iterdir()) == []
        assert not (packages / "committed").is_symlink()


def _went_back_on_command(report):
    return report.outcome == "rolled_back" and report.failure.reason == "command"


COMMON = {"deadline": None, "derandomize": False, "print_blob": True,
          "suppress_health_check": list(HealthCheck)}  # fmt: skip


def test_any_storm():
    run_state_machine_as_test(
        AnyStorm, settings=settings(max_examples=15, stateful_step_count=30, **COMMON)
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_storms():
    examples = int(os.environ.get("TRIMTAB_STORMS", "300"))
    run_state_machine_as_test(
        AnyStorm, settings=settings(max_examples=examples, stateful_step_count=60, **COMMON)
    )
