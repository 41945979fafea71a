"""Commands: done once, in order, and only when signed."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.updates import INVENTORY, MEASUREMENT
from trimtab_agent.allowance import BURST, REFILL_S, Allowance
from trimtab_agent.commands import Commands, newest_that_fit
from trimtab_agent.contract import codec
from trimtab_agent.contract.commands import Command, CommandReply
from trimtab_agent.errors import MeasurementError, StorageError, TrustError

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)


def message(counter, action, **more) -> bytes:
    return codec.encode(
        Command(device="dev-1", counter=counter, action=action, issued="", expires="", **more)
    )


class Device:
    """A device without hardware: what it was told, and what it has done."""

    def __init__(self, *, active="model-2.json", previous="model-1.json") -> None:
        self.counter: int | None = 5
        self.last_command: tuple[int, bytes] | None = None
        self.paused = False
        self.active, self.previous = active, previous
        self.measured = 0
        self.breaks = False
        self.proofs = 0
        self.uptime_s = 0.0
        self.commands = Commands(
            verify=self.verify,
            told=self,
            updater=self,
            bench=self,
            active=self.version,
            logs=lambda lines: tuple(f"line {number}" for number in range(lines)),
            clock=lambda: NOW,
            allowance=Allowance(lambda: self.uptime_s),
        )

    def verify(self, signed, now):
        assert now == NOW
        self.proofs += 1
        if signed == b"forged":
            raise TrustError("no good signature")
        return codec.decode(signed, Command, what="a command")

    def answer(self, counter, reply):
        self.last_command = counter, reply

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False

    def roll_back(self):
        if self.previous is None:
            return None
        self.active, self.previous = self.previous, None
        return "a report"

    def inventory(self):
        return INVENTORY

    def measure(self, version):
        if self.breaks:
            raise MeasurementError("the process was killed by SIGSEGV")
        self.measured += 1
        return MEASUREMENT

    def version(self):
        return self.active and SimpleNamespace(manifest=SimpleNamespace(target_name=self.active))

    def tell(self, *args, **more) -> CommandReply:
        return codec.decode(
            self.commands.handle(message(*args, **more)), CommandReply, what="the reply"
        )


def test_measuring_again():
    reply = Device().tell(6, "measure")
    assert reply.measurement == MEASUREMENT
    assert (reply.active, reply.counter, reply.failure) == ("model-2.json", 6, None)


def test_inventory_and_logs():
    device = Device()
    assert device.tell(6, "inventory").inventory == INVENTORY
    assert device.tell(7, "logs", lines=2).logs == ("line 0", "line 1")


def test_pausing_and_going_on():
    device = Device()
    assert device.tell(6, "pause").paused
    assert not device.tell(7, "resume").paused


def test_rolling_back():
    assert Device().tell(6, "roll_back").active == "model-1.json"


@pytest.mark.parametrize(
    ("device", "action", "reason", "text"),
    [
        (Device(previous=None), "roll_back", "caller", "no version to go back to"),
        (Device(active=None), "measure", "caller", "nothing is active"),
    ],
)
def test_what_cannot_be_done_is_answered(device, action, reason, text):
    failure = device.tell(6, action).failure
    assert failure.reason == reason
    assert text in failure.message


def test_a_model_that_crashes_is_answered():
    device = Device()
    device.breaks = True
    assert device.tell(6, "measure").failure.reason == "measurement"


def test_a_command_that_comes_twice_is_done_once_and_answered_twice():
    device = Device()
    assert device.tell(6, "measure") == device.tell(6, "measure")
    assert device.measured == 1


@pytest.mark.parametrize("counter", [4, 5])
def test_a_command_from_before_the_last_assignment_is_refused(counter, caplog):
    assert Device().commands.handle(message(counter, "roll_back")) is None
    assert "held back or is replayed" in caplog.text


def test_a_command_from_before_the_last_command_is_refused():
    device = Device()
    device.tell(8, "pause")
    assert device.commands.handle(message(7, "resume")) is None
    assert device.paused


@pytest.mark.parametrize("signed", [b"forged", b"", b"{}", b"\xff"])
def test_what_proves_nothing_is_not_answered(signed):
    device = Device()
    assert device.commands.handle(signed) is None
    assert device.last_command is None


@given(st.lists(st.text(), max_size=20).map(tuple), st.integers(0, 200))
def test_the_newest_lines_that_fit(lines, limit):
    kept = newest_that_fit(lines, limit)
    assert kept == lines[len(lines) - len(kept) :]
    assert sum(len(codec.encode(line)) + 1 for line in kept) <= limit


@pytest.mark.parametrize("flood", [b"forged", message(6, "inventory")], ids=["forged", "replayed"])
def test_a_flood_of_commands_is_not_proven_one_by_one(flood):
    device = Device()
    device.tell(6, "inventory")
    for _ in range(1000):
        device.commands.handle(flood)
    assert device.proofs == 1 + BURST
    assert not device.commands.listening
    device.uptime_s += REFILL_S
    assert device.tell(7, "inventory").inventory == INVENTORY


def test_a_rollback_whose_reply_cannot_be_kept_is_not_done_a_second_time():
    device = Device()
    answer, answers = device.answer, []

    def refuse(counter, reply):
        answers.append(reply)
        if len(answers) == 2:
            raise StorageError("the disk is full")
        answer(counter, reply)

    device.answer = refuse
    with pytest.raises(StorageError):
        device.commands.handle(message(6, "roll_back"))
    assert device.active == "model-1.json"
    device.previous = "model-0.json"
    reply = codec.decode(
        device.commands.handle(message(6, "roll_back")), CommandReply, what="reply"
    )
    assert (device.active, reply.failure.reason) == ("model-1.json", "interrupted")


def test_a_rollback_that_cannot_be_noted_is_not_begun():
    device = Device()

    def refuse(counter, reply):
        raise StorageError("the disk is full")

    device.answer = refuse
    with pytest.raises(StorageError):
        device.commands.handle(message(6, "roll_back"))
    assert device.active == "model-2.json"
