"""One device in a hostile world, and a model that says what must come of it.

The device is a real agent (event loop, updater, commands, outbox) on a real store and database.
The model is `Expected`: names instead of directories, no disk, no steps, a few lines a rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from support.faulty_disk import FaultyDisk
from support.manifests import SmallPackage, small_package
from support.updates import INVENTORY, Device, PowerCut, World
from trimtab_agent.agent import Agent
from trimtab_agent.allowance import Allowance
from trimtab_agent.commands import Commands
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.commands import Command, CommandReply
from trimtab_agent.contract.manifest import Budget, Hardware
from trimtab_agent.contract.messages import Acknowledgement, Assignment, Report
from trimtab_agent.errors import (
    BrokerError,
    ExpiredError,
    GoldenError,
    HealthError,
    HookError,
    IntegrityError,
    TrustError,
)
from trimtab_agent.mailbox import Mailbox
from trimtab_agent.outbox import Outbox
from trimtab_agent.states import MAX_ATTEMPTS
from trimtab_agent.systemd import Service

HERE = "dev-1"
BEGIN = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)

KINDS: dict[str, tuple[str, str | None]] = {
    "good-a": ("active", None),
    "good-b": ("active", None),
    "good-c": ("active", None),
    "unsigned": ("refused", "trust"),
    "elsewhere": ("refused", "architecture"),
    "spoilt": ("refused", "integrity"),
    "wrong": ("refused", "golden"),
    "slow": ("refused", "latency_budget"),
    "vetoed": ("refused", "hook"),
    "deadly": ("refused", "attempts"),
    "unhooked": ("rolled_back", "hook"),
    "ill": ("rolled_back", "health"),
    "deadly-later": ("rolled_back", "attempts"),
}
"""How the update to a package of each kind ends, and why, if nothing comes in between."""


def package(kind: str) -> SmallPackage:
    """A package of three chunks; what is wrong with it is in its name."""
    options = {}
    if kind == "elsewhere":
        options["hardware"] = Hardware(architectures=("riscv64",))
    if kind == "slow":
        options["budget"] = Budget(latency_p95_us=1.0)
    model = hashlib.shake_128(kind.encode()).digest(9000)
    return small_package(kind, model=model, **options)


PACKAGES = {kind: package(kind) for kind in KINDS}
TARGETS = {kind: made.manifest.target_name for kind, made in PACKAGES.items()}
KIND_OF = {target: kind for kind, target in TARGETS.items()}


class HostileWorld(World):
    """Everything beside the disk. True time is `true_s`; the device's clock may be set wrong."""

    def __init__(self) -> None:
        super().__init__(has_health=True, interval_s=60.0, failures_allowed=1)
        self.true_s = 0.0
        self.skew_s = 0.0
        self.cuts = {"deadly": "check_golden", "deadly-later": "check_health"}
        for kind, made in PACKAGES.items():
            if kind != "unsigned":
                self.release(made)

    def pass_time(self, seconds: float) -> None:
        self.true_s += seconds
        self.uptime_s += seconds

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.true_s + self.skew_s)

    def read(self, signed: bytes, kind: type):
        """Returns what a message says, if the device's clock lets it be proven."""
        message = codec.decode(signed, kind, what="the message")
        if message.device != HERE:
            raise TrustError(f"it is for {message.device}")
        if datetime.fromisoformat(message.expires.replace("Z", "+00:00")) <= self.now():
            raise ExpiredError(f"it has expired at {message.expires}")
        return message

    def verify_assignment(self, signed: bytes, *, now: datetime) -> Assignment:
        self._called("verify_assignment")
        return self.read(signed, Assignment)

    def verify_command(self, signed: bytes, now: datetime) -> Command:
        return self.read(signed, Command)

    def pull(self, manifest, cache, *, group=None, stop=lambda: False):
        transfer = super().pull(manifest, cache, group=group, stop=stop)
        if manifest.version == "spoilt":
            raise IntegrityError("a chunk has other bytes")
        return transfer

    def check_golden(self, version):
        self._strike(version, "check_golden")
        if version.manifest.version == "wrong":
            raise GoldenError("off by 3")
        return super().check_golden(version)

    def check_health(self, version) -> None:
        self._strike(version, "check_health")
        super().check_health(version)
        if version.manifest.version == "ill":
            raise HealthError("is ill")

    def run(self, hook, version) -> None:
        super().run(hook, version)
        kind = version.manifest.version if version else None
        if (hook, kind) in (("before_switch", "vetoed"), ("after_switch", "unhooked")):
            raise HookError("says no")

    def _strike(self, version, work: str) -> None:
        if self.cuts.get(version.manifest.version) == work:
            raise PowerCut


class Inbox(Mailbox):
    """The agent's events, in the world's time: an empty one lets time pass."""

    def __init__(self, world: HostileWorld) -> None:
        super().__init__()
        self._world = world

    def get(self, timeout_s):
        if not self.waiting:
            self._world.pass_time(max(timeout_s, 0.001))  # no wait takes no time at all
        return super().get(0.0)


class Line:
    """The connection to the broker, with messages on their way in both directions."""

    def __init__(self) -> None:
        self.there = True
        self.to_host: list[tuple[str, bytes]] = []
        self.handlers: dict[str, Callable] = {}
        self._connected = lambda: None

    def connect(self, timeout_s) -> None:
        if not self.there:
            raise BrokerError("nobody listens")
        self._connected()

    def when_connected(self, call) -> None:
        self._connected = call

    def subscribe(self, topic, handler) -> None:
        self.handlers[topic] = handler

    def publish(self, topic, payload, **_) -> None:
        if not self.there:
            raise BrokerError("nobody listens")
        self.to_host.append((topic, payload))

    def deliver(self, topic: str, payload: bytes) -> None:
        if topic in self.handlers:
            self.handlers[topic](topic, payload, {})


class _Opened(Device):
    """A device whose agent does the cleaning up."""

    def boot(self) -> None:
        self.open()


class Machine:
    """The device: what survives is its disk and the world; `boot` makes the rest anew."""

    def __init__(self, directory: Path) -> None:
        self.world = HostileWorld()
        self.disk = FaultyDisk(directory)
        self.line = Line()
        self.device = _Opened(directory, world=self.world)
        self._start()

    def boot(self, *, cut_after: int | None = None) -> None:
        """Switches the machine on again.

        Args:
            cut_after: Goes down again in its recovery, after so many operations on the disk.

        Raises:
            PowerCut: It did.
        """
        self.world.uptime_s = 0.0
        self.disk.heal()
        self.device.open()
        if cut_after is not None:
            self.disk.fail("cut", after=cut_after)
        self._start()

    def _start(self) -> None:
        device, world, line = self.device, self.world, self.line
        self.disk.watch(device.memory)
        line.handlers.clear()
        commands = Commands(
            verify=world.verify_command,
            told=device.memory,
            updater=device.updater,
            bench=world,
            active=lambda: device.store.current,
            logs=lambda count: (),
            clock=world.now,
            allowance=Allowance(world.monotonic_s),
        )
        self.agent = Agent(
            device=HERE,
            link=line,
            updater=device.updater,
            commands=commands,
            outbox=Outbox(
                device.memory,
                lambda report: line.publish(topics.report(HERE), report),
                world.monotonic_s,
            ),
            inventory=INVENTORY,
            active=lambda: device.active,
            service=Service({}),
            show=lambda _: None,
            clock=world.monotonic_s,
        )
        self.agent._mailbox = Inbox(world)
        with self.disk.in_use():
            self.agent.start()

    def turn(self) -> None:
        """One turn of the agent's loop."""
        with self.disk.in_use():
            self.agent.turn(once=False)

    def stop(self) -> None:
        """Ends the agent on purpose."""
        with self.disk.in_use():
            self.agent.stop()

    def close(self) -> None:
        self.disk.close()
        self.device.close()


@dataclass
class Host:
    """What the host has sent, and has got."""

    counter: int = 0
    assigned: dict[int, str] = field(default_factory=dict)
    commanded: dict[int, str] = field(default_factory=dict)
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    retained: bytes | None = None
    stored: dict[str, Report] = field(default_factory=dict)
    replies: dict[int, CommandReply] = field(default_factory=dict)

    def _order(self, world: HostileWorld, days: float) -> dict:
        self.counter += 1
        expires = BEGIN + timedelta(seconds=world.true_s, days=days)
        return {
            "device": HERE,
            "counter": self.counter,
            "issued": "2026-11-22T00:00:00Z",
            "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def assign(self, world: HostileWorld, kind: str, *, days=30.0, probation_s=0.0) -> bytes:
        order = self._order(world, days)
        self.assigned[self.counter] = kind
        self.retained = codec.encode(
            Assignment(target=TARGETS[kind], probation_s=probation_s, **order)
        )
        self.sent.append((topics.assignment(HERE), self.retained))
        return self.retained

    def command(self, world: HostileWorld, action: str, *, days=1.0) -> bytes:
        order = self._order(world, days)
        self.commanded[self.counter] = action
        message = codec.encode(Command(action=action, **order))
        self.sent.append((topics.command(HERE), message))
        return message

    def take(self, topic: str, payload: bytes) -> bytes | None:
        """Stores what came; returns the acknowledgement that it owes for a report."""
        if topic == topics.report(HERE):
            report = codec.decode(payload, Report, what="report")
            known = self.stored.setdefault(report.id, report)
            assert known == report, "a report has changed on its way"
            acknowledgement = codec.encode(Acknowledgement(ids=(report.id,)))
            self.sent.append((topics.acknowledgement(HERE), acknowledgement))
            return acknowledgement
        if topic == topics.reply(HERE):
            reply = codec.decode(payload, CommandReply, what="reply")
            self.replies[reply.counter] = reply
        return None


@dataclass
class Expected:
    """What must be, in names: the reference model.

    Attributes:
        current: Target that was committed last and not taken back.
        previous: What an ordered rollback goes back to.
        counter: The highest that was accepted.
        reports: Ids of all that were written, by counter.
        storms: What has happened to the update under way that may end it otherwise.
    """

    current: str | None = None
    previous: str | None = None
    counter: int | None = None
    accepted: list[int] = field(default_factory=list)
    reports: dict[str, Report] = field(default_factory=dict)
    storms: set[str] = field(default_factory=set)
    cuts: int = 0

    def accept(self, counter: int | None) -> None:
        """The device remembers an assignment."""
        if counter == self.counter:
            return
        assert counter is not None, "the counter is forgotten"
        assert self.counter is None or counter > self.counter, "the counter fell"
        self.counter = counter
        self.accepted.append(counter)
        self.storms.clear()
        self.cuts = 0

    def cut(self) -> None:
        self.cuts += 1

    def end(self, report: Report, kind: str) -> None:
        """The device has written a report of an update to a package of this kind."""
        assert report.id not in self.reports
        outcome, reason = KINDS[kind]
        got = report.failure.reason if report.failure else None
        if got == "command" and report.failure.state == "committed":
            self.current, self.previous = self.previous, None
            self.reports[report.id] = report
            return
        first = [each for each in self.reports.values() if not _ordered(each)]
        assert report.counter not in [each.counter for each in first], "reported twice"
        self.reports[report.id] = report
        allowed = {(outcome, reason), *self._otherwise()}
        assert (report.outcome, got) in allowed, f"{kind} ended {report.outcome}, {got}"
        if report.outcome == "active" and self.current != report.target:
            self.current, self.previous = report.target, self.current

    def _otherwise(self) -> set[tuple[str, str]]:
        reasons = set(self.storms)
        if self.cuts >= MAX_ATTEMPTS:
            reasons.add("attempts")
        return {(end, reason) for end in ("refused", "rolled_back") for reason in reasons}


def _ordered(report: Report) -> bool:
    """Whether a report tells of an ordered rollback of what was committed."""
    failure = report.failure
    return bool(failure and failure.reason == "command" and failure.state == "committed")
