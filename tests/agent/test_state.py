"""The database and the outbox."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from support.measurements import a_comparison
from support.updates import INVENTORY, MEASUREMENT
from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import Assignment, Report, Transfer
from trimtab_agent.errors import BrokerError, StorageError
from trimtab_agent.outbox import FIRST_DELAY_S, LONGEST_DELAY_S, Outbox, delay_s, fit_report
from trimtab_agent.state import Findings, Memory, open_memory

ASSIGNMENT = Assignment(
    device="dev-1",
    counter=3,
    target="model-1.json",
    issued="2026-11-22T00:00:00Z",
    expires="2026-12-22T00:00:00Z",
)
REPORT = Report(
    id="r1",
    device="dev-1",
    counter=3,
    target="model-1.json",
    target_sha256=None,
    trial=None,
    outcome="active",
    active="model-1.json",
    failure=None,
    transfer=None,
    golden=None,
    measurement=None,
    inventory=INVENTORY,
    started="2026-11-22T00:00:00Z",
    finished="2026-11-22T00:01:00Z",
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite"


@pytest.fixture
def memory(path):
    with Memory(path) as made:
        yield made


def report(number):
    return msgspec.structs.replace(REPORT, id=f"r{number}")


def accept(memory):
    memory.accept(ASSIGNMENT, message_sha256="ab", started="2026-11-22T00:00:00Z")


def test_a_new_database_knows_nothing(memory):
    assert (memory.counter, memory.message_sha256, memory.pending) == (None, None, None)
    assert (memory.manifest, memory.last_command, memory.paused) == (None, None, False)
    assert memory.outbox == []


def test_the_database_waits_for_the_disk(memory):
    assert memory._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert memory._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_an_update_is_remembered_step_by_step(memory, path):
    accept(memory)
    assert (memory.begin(), memory.begin()) == (1, 2)
    transfer = Transfer(chunks=2, chunks_reused=1, wire_bytes=10, duration_s=0.5)
    found = Findings(manifest=b"{}", transfer=transfer)
    memory.reach("verifying", found)
    assert memory.begin() == 1
    with Memory(path) as again:
        pending = again.pending
    assert (pending.assignment, pending.step, pending.findings) == (ASSIGNMENT, "verifying", found)


def test_the_end_of_an_update_and_its_report_are_one(memory):
    accept(memory)
    memory.settle(REPORT)
    assert memory.pending is None
    assert memory.counter == 3
    assert memory.outbox == ["r1"]
    assert memory.report("r1") == codec.encode(REPORT)
    with pytest.raises(StorageError, match="there is no report r2"):
        memory.report("r2")
    accept(memory)
    with pytest.raises(StorageError, match="UNIQUE"):
        memory.settle(REPORT)  # the same id: neither is written
    assert memory.pending is not None


def test_a_process_that_is_killed_loses_nothing_it_committed(path):
    script = (
        "import os,sys; from pathlib import Path\n"
        "sys.path[:0] = sys.argv[2:]\n"
        "from test_state import *\n"
        "memory = Memory(Path(sys.argv[1])); accept(memory); memory.settle(REPORT)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    here = [str(parent) for parent in list(Path(__file__).parents)[:2]]
    done = subprocess.run([sys.executable, "-c", script, path, *here], check=False)
    assert done.returncode == -9
    with Memory(path) as memory:
        assert (memory.counter, len(memory.outbox)) == (3, 1)


def test_a_damaged_database_is_a_storage_error(path):
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match=r"state\.sqlite refuses: file is not a database"):
        Memory(path)


def test_a_pause_and_a_command_are_remembered(memory, path):
    memory.paused = True
    memory.answer(7, b"done")
    with Memory(path) as again:
        assert (again.paused, again.last_command) == (True, (7, b"done"))
        again.paused = False
    assert not memory.paused


def test_attempts_and_retries_are_counted_for_a_step(memory):
    accept(memory)
    assert [memory.begin(), memory.retry(), memory.begin(), memory.retry()] == [1, 1, 2, 2]
    memory.keep(Findings(manifest=b"{}"))
    memory.leave_off()
    assert (memory.begin(), memory.pending.findings.manifest) == (2, b"{}")
    memory.reach("staged", Findings())
    memory.leave_off()
    assert (memory.begin(), memory.retry()) == (1, 1)


def test_an_update_that_is_over_can_be_taken_back(memory):
    accept(memory)
    memory.settle(REPORT)
    memory.reopen("other-1.json", "committed", Findings(manifest=b"{}"))
    pending = memory.pending
    assert (pending.assignment.target, pending.step) == ("other-1.json", "committed")
    assert (pending.assignment.counter, memory.counter) == (3, 3)


def test_two_that_make_a_new_database_at_once_find_the_same(tmp_path):
    # As `trimtab-agent status` does while the agent starts for the first time.
    for round_number in range(10):
        start = threading.Barrier(4)

        def make(path: Path = tmp_path / f"{round_number}.sqlite", start=start) -> bool:
            start.wait()
            with open_memory(path) as memory:
                return memory.paused

        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(make) for _ in range(4)]
        assert [each.result() for each in made] == [False] * 4
    assert not list(tmp_path.glob("*.damaged"))


def test_a_database_of_a_newer_agent_is_left_alone(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"made by a newer agent \(format 2; this one knows 1\)"):
        open_memory(path)
    assert path.read_bytes() == before


def rot(path):
    path.write_bytes(b"not a database" * 100)


def rot_in_the_middle(path):
    with Memory(path) as memory:
        accept(memory)
        for number in range(200):
            memory.settle(report(number))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9000] = bytes(9000)
    path.write_bytes(data)


def rot_in_a_value(path):
    with Memory(path) as memory:
        accept(memory)
        memory._database.execute("UPDATE assignment SET findings = X'FF00'")


def tables_of_another_program(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other (x)")


@pytest.mark.parametrize(
    "damage", [rot, rot_in_the_middle, rot_in_a_value, tables_of_another_program]
)
def test_a_damaged_database_is_put_aside(path, damage):
    damage(path)
    damaged = path.read_bytes()
    with open_memory(path) as memory:
        assert memory.counter is None
        accept(memory)
    assert path.with_name("state.sqlite.damaged").read_bytes() == damaged
    with open_memory(path) as memory:
        assert memory.counter == 3


class Host:
    """Takes reports in, when it is there."""

    def __init__(self):
        self.there = True
        self.sent = []
        self.now = 0.0

    def send(self, data):
        if not self.there:
            raise BrokerError("no connection")
        self.sent.append(codec.decode(data, Report, what="report").id)


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def outbox(memory, host):
    for number in (1, 2):
        accept(memory)
        memory.settle(report(number))
    return Outbox(memory, host.send, lambda: host.now)


def test_reports_are_sent_until_they_are_acknowledged(outbox, host):
    assert outbox.send_due() == FIRST_DELAY_S
    assert host.sent == ["r1", "r2"]
    host.now = FIRST_DELAY_S - 1
    assert outbox.send_due() == 1
    assert host.sent == ["r1", "r2"]
    outbox.acknowledge(("r1", "unknown"))
    host.now = FIRST_DELAY_S
    assert outbox.send_due() == 2 * FIRST_DELAY_S
    assert host.sent == ["r1", "r2", "r2"]
    outbox.acknowledge(("r2",))
    assert outbox.send_due() is None
    assert len(outbox) == 0


def test_a_new_connection_makes_everything_due(outbox, host):
    outbox.send_due()
    outbox.reconnected()
    assert outbox.send_due() == FIRST_DELAY_S
    assert host.sent == ["r1", "r2"] * 2


def test_without_a_connection_nothing_is_lost_and_nothing_spins(outbox, host):
    host.there = False
    assert outbox.send_due() == FIRST_DELAY_S
    assert host.sent == []
    host.there = True
    outbox.reconnected()
    outbox.send_due()
    assert host.sent == ["r1", "r2"]


def test_a_report_too_large_for_the_broker_leaves_its_raw_latencies_out():
    latency = msgspec.structs.replace(MEASUREMENT.latency, raw_us=bytes(10_000))
    measured = msgspec.structs.replace(MEASUREMENT, latency=latency)
    compared = msgspec.structs.replace(a_comparison(), running=measured)
    data = codec.encode(msgspec.structs.replace(REPORT, measurement=measured, comparison=compared))
    assert fit_report(data, None) == fit_report(data, len(data)) == data
    small = codec.decode(fit_report(data, len(data) - 1), Report, what="report")
    for kept in (small.measurement, small.comparison.running):
        assert kept.latency == msgspec.structs.replace(latency, raw_us=b"")
    refused = codec.encode(REPORT)
    assert fit_report(refused, 10) == refused


def test_delays_double_up_to_a_limit():
    delays = [delay_s(attempt) for attempt in range(1, 100)]
    assert delays[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_S
