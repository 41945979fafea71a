"""Reports that wait for the host: any order of ends, sendings, losses and restarts, little room."""

from __future__ import annotations

import shutil

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.measurements import a_comparison
from support.scratch import make_scratch
from support.updates import INVENTORY, MEASUREMENT
from trimtab_agent import report_room
from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import Assignment, Report
from trimtab_agent.errors import BrokerError
from trimtab_agent.outbox import LONGEST_DELAY_S, Outbox
from trimtab_agent.report_room import without_raw
from trimtab_agent.state import Memory

FEW, LITTLE_BYTES = 5, 9000


def a_report(number: int, raw_bytes: int) -> Report:
    latency = msgspec.structs.replace(MEASUREMENT.latency, raw_us=bytes(raw_bytes))
    measurement = msgspec.structs.replace(MEASUREMENT, latency=latency)
    return Report(
        id=f"r{number}",
        device="dev-1",
        counter=number,
        target="m.json",
        target_sha256=None,
        trial=None,
        outcome="active",
        active="m.json",
        failure=None,
        transfer=None,
        golden=None,
        measurement=measurement if raw_bytes else None,
        inventory=INVENTORY,
        started="2026-11-22T00:00:00Z",
        finished="2026-11-22T00:00:01Z",
        comparison=a_comparison() if raw_bytes > 2000 else None,
    )


def accept(memory: Memory, counter: int) -> None:
    assignment = Assignment(
        device="dev-1", counter=counter, target="m.json",
        issued="2026-11-22T00:00:00Z", expires="2027-11-22T00:00:00Z",
    )  # fmt: skip
    memory.accept(assignment, message_sha256="00", started="2026-11-22T00:00:00Z")


class Reports(RuleBasedStateMachine):
    """Every report is waiting, stored by the host, or counted as lost by a later one."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(report_room, "MAX_REPORTS", FEW)
        self.patch.setattr(report_room, "MAX_BYTES", LITTLE_BYTES)
        self.directory = make_scratch()
        self.memory = Memory(self.directory / "state.sqlite")
        self.now_s, self.there = 0.0, True
        self.made: list[Report] = []
        self.to_host: list[bytes] = []
        self.owed: list[str] = []
        self.stored: dict[str, Report] = {}
        self._open()

    def _open(self) -> None:
        self.outbox = Outbox(self.memory, self._send, lambda: self.now_s)

    def teardown(self) -> None:
        self.there = True
        for _ in range(3):
            self.now_s += LONGEST_DELAY_S
            self.outbox.send_due()
            self.host_takes(count=FEW, lose=False)
            self.acknowledge(count=2 * FEW, lose=False)
        assert len(self.outbox) == 0
        self.memory.close()
        self.patch.undo()
        shutil.rmtree(self.directory)

    def _send(self, data: bytes) -> None:
        if not self.there:
            raise BrokerError("no connection")
        self.to_host.append(data)

    @rule(raw_bytes=st.sampled_from([0, 100, 1000, 3000, 8000]))
    def an_update_ends(self, raw_bytes):
        report = a_report(len(self.made), raw_bytes)
        accept(self.memory, report.counter)
        self.memory.settle(report)
        self.made.append(report)
        assert self.memory.outbox[-1] == report.id

    @rule(seconds=st.sampled_from([1.0, 10.0, 1000.0]))
    def time_passes(self, seconds):
        self.now_s += seconds
        wait_s = self.outbox.send_due()
        assert (wait_s is None) == (len(self.outbox) == 0)
        assert wait_s is None or 0 < wait_s <= LONGEST_DELAY_S

    @rule(there=st.booleans())
    def broker(self, there):
        self.there = there
        if there:
            self.outbox.reconnected()

    @rule()
    def power_cut(self):
        self.memory.close()
        self.memory = Memory(self.directory / "state.sqlite")
        self._open()

    @precondition(lambda self: self.to_host)
    @rule(count=st.integers(1, 5), lose=st.booleans())
    def host_takes(self, count, lose):
        for _ in range(min(count, len(self.to_host))):
            report = codec.decode(self.to_host.pop(), Report, what="report")
            if not lose:
                self.stored.setdefault(report.id, report)
                self.owed.append(report.id)

    @precondition(lambda self: self.owed)
    @rule(count=st.integers(1, 5), lose=st.booleans())
    def acknowledge(self, count, lose):
        ids = tuple(self.owed[:count])
        if not lose:
            self.outbox.acknowledge((*ids, "unknown"))
            self.owed = self.owed[count:]

    @invariant()
    def nothing_is_lost_in_silence(self):
        bodies = [self.memory.report(id_) for id_ in self.memory.outbox]
        waiting = [codec.decode(body, Report, what="report") for body in bodies]
        known = {report.id: report for report in (*waiting, *self.stored.values())}
        told = sum(report.reports_lost for report in known.values())
        # One that the host has stored, whose acknowledgement did not come, may count as lost.
        beyond = told + len(known) - len(self.made)
        assert beyond >= 0
        assert beyond == 0 or self.stored
        for report in known.values():
            original = self.made[report.counter]
            same = msgspec.structs.replace(report, reports_lost=0)
            assert same in (original, without_raw(original))

    @invariant()
    def there_is_room(self):
        bodies = [self.memory.report(id_) for id_ in self.memory.outbox]
        assert len(bodies) <= FEW
        newest = len(bodies[-1]) if bodies else 0
        assert sum(map(len, bodies)) <= max(LITTLE_BYTES, newest) + len('"reports_lost":,') + 3


TestReports = Reports.TestCase
TestReports.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, derandomize=False
)


@pytest.fixture
def memory(tmp_path):
    with Memory(tmp_path / "state.sqlite") as opened:
        yield opened


def reports(memory):
    bodies = [memory.report(id_) for id_ in memory.outbox]
    return [codec.decode(body, Report, what="report") for body in bodies]


def test_the_oldest_lose_their_raw_latencies_before_any_report_goes(memory, monkeypatch):
    monkeypatch.setattr(report_room, "MAX_BYTES", 16_000)
    for number in range(4):
        accept(memory, number)
        memory.settle(a_report(number, 4000))
    raw = [len(report.measurement.latency.raw_us) for report in reports(memory)]
    assert raw[0] == 0
    assert raw[-1] == 4000
    assert raw == sorted(raw)
    assert [report.reports_lost for report in reports(memory)] == [0, 0, 0, 0]


def test_lost_reports_are_counted_through_those_that_told_of_them(memory, monkeypatch, caplog):
    monkeypatch.setattr(report_room, "MAX_REPORTS", 2)
    for number in range(10):
        accept(memory, number)
        memory.settle(a_report(number, 0))
    assert [(r.id, r.reports_lost) for r in reports(memory)] == [("r8", 4), ("r9", 4)]
    assert "reports were lost: the outbox was full" in caplog.text


def test_a_damaged_report_gives_way_like_any_other(memory, monkeypatch):
    monkeypatch.setattr(report_room, "MAX_REPORTS", 1)
    monkeypatch.setattr(report_room, "MAX_BYTES", 10)
    accept(memory, 0)
    memory.settle(a_report(0, 0))
    with memory._transaction() as database:
        database.execute("UPDATE outbox SET report = 'rot'")
    memory.settle(a_report(1, 0))
    assert [(r.id, r.reports_lost) for r in reports(memory)] == [("r1", 1)]
