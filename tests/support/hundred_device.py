"""One device for the hundred packages: the agent's own updater, store, children and runtimes.

What it gets comes out of a repository of signed metadata, over the ports that the agent has; the
network is in memory. After every step it is checked that nothing is active which must not be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import trimtab_agent
from support.hundred_models import Family
from support.hundred_packages import Made
from support.manifests import SmallPackage
from support.tuf_simulator import TufSimulator
from trimtab_agent import installer
from trimtab_agent.adapters import DeviceBench, PackageSource
from trimtab_agent.assembly import assemble
from trimtab_agent.bench.plan import QUICK
from trimtab_agent.config import HealthConfig, HooksConfig, MeasureConfig
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.contract.messages import Assignment, Gates, Inventory, Report
from trimtab_agent.errors import InterruptedUpdateError, NetworkError
from trimtab_agent.fetcher import MqttDocuments
from trimtab_agent.hooks import DeviceHooks
from trimtab_agent.state import open_memory
from trimtab_agent.states import PASSING
from trimtab_agent.store import Store, free_bytes
from trimtab_agent.trust import TrustStore
from trimtab_agent.updater import Updater
from trimtab_agent.verifier import Verifier

DEVICE = "dev-1"

PLAN = msgspec.structs.replace(
    QUICK,
    warmup_runs=3,
    warmup_s=0.05,
    duration_s=0.2,
    min_runs=64,
    memory_runs=5,
    idle_s=0.1,
    energy_s=0.1,
)
"""As `QUICK`, but short."""


class GuardBrokenError(AssertionError):
    """A package was active that must not be, or a good one no longer works."""


@dataclass(frozen=True)
class Result:
    """What came of an assignment.

    Attributes:
        outcome: The report's, or `unaccepted` for an assignment that is not believed, or
            `waiting` for an update that is tried again later.
        reason: Stable word of the error; empty if there was none.
        state: Where it failed.
        message: The error in words.
        report: If there is one.
    """

    outcome: str
    reason: str = ""
    state: str = ""
    message: str = ""
    report: Report | None = None


@dataclass
class Surroundings:
    """What an attack can change of the world around the device, for one assignment.

    Attributes:
        hooks: The table `[hooks]`.
        health: The table `[health]`.
        free_bytes: Free room on the disk; None for what there is.
        runtimes_missing: Runtimes that are not installed.
        spoil: What the network makes of a chunk; None for one that does not come.
        grace_s: How long a model's process may take, if not as usual.
    """

    hooks: HooksConfig = field(default_factory=HooksConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    free_bytes: int | None = None
    runtimes_missing: tuple[str, ...] = ()
    spoil: Callable[[Chunk, bytes], bytes | None] = lambda chunk, wire: wire
    grace_s: float | None = None


class Clock:
    """The machine's clock; waits for another try pass at once."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def monotonic_s(self) -> float:
        return time.monotonic() + self.skipped_s


class Bench(DeviceBench):
    """The real bench with a short plan, on a machine that may lack runtimes."""

    def __init__(self, device: Device) -> None:
        super().__init__("generic-x86-64", MeasureConfig())
        self._device = device
        self._plan = PLAN

    def inventory(self) -> Inventory:
        found = super().inventory()
        missing = self._device.around.runtimes_missing
        there = {name: info for name, info in found.runtimes.items() if name not in missing}
        return msgspec.structs.replace(found, runtimes=there)

    def surround(self, around: Surroundings) -> None:
        grace_s = PLAN.grace_s if around.grace_s is None else around.grace_s
        limits = {} if around.grace_s is None else {"limit_s": 0.1, "sample_s": 0.0,
                                                    "warmup_limit_s": 0.1}  # fmt: skip
        self._plan = msgspec.structs.replace(PLAN, grace_s=grace_s, **limits)


class Device:
    """A device on which a good version of one family runs.

    Args:
        directory: Its disk.
        family: Of the models that it runs.
        children: Whether to verify and to decode in child processes, as the agent does.
    """

    def __init__(self, directory: Path, family: Family, *, children: bool) -> None:
        directory.mkdir()
        self.state_dir = directory
        self.family = family
        self.simulator = TufSimulator()
        self.around = Surroundings()
        self.clock = Clock()
        self.counter = 0
        self.chunks: dict[str, bytes] = {}
        self.told: list[str] = []
        self.good: Made | None = None
        self.first_message = b""
        trusted = (directory / "trust", self.simulator.roots[0])
        self.memory = open_memory(directory / "state.sqlite")
        self.store = Store(
            directory / "packages",
            free=self._free,
            assemble=installer.assemble_in_child if children else assemble,
        )
        self.bench = Bench(self)
        self.updater = Updater(
            memory=self.memory,
            store=self.store,
            source=PackageSource(
                MqttDocuments(self.simulator.broker, timeout_s=5.0),
                lambda group: {"retained": self},
                Verifier(*trusted) if children else TrustStore(*trusted),
                device=DEVICE,
            ),
            bench=self.bench,
            hooks=self,
            clock=self.clock,
            notify=lambda progress: self.told.append(progress.state),
        )
        self.updater.clean_up()
        self.app: Any = None

    # Ports

    def fetch(self, chunks: Any, *, stop: Callable[[], bool]) -> Iterator[tuple[Chunk, bytes]]:
        """`sources.Chunks`."""
        missing = []
        for chunk in chunks:
            wire = self.around.spoil(chunk, self.chunks[chunk.sha256])
            if wire is None:
                missing.append(chunk.sha256)
            else:
                yield chunk, wire
        if missing:
            raise NetworkError(f"{len(missing)} chunks did not come, {missing[0][:12]} first")

    def _free(self, path: Path) -> int:
        told = self.around.free_bytes
        return free_bytes(path) if told is None else told

    @property
    def _hooks(self) -> DeviceHooks:
        return DeviceHooks(DEVICE, self.around.hooks, self.around.health)

    @property
    def has_health(self) -> bool:
        return self._hooks.has_health

    @property
    def interval_s(self) -> float:
        return self._hooks.interval_s

    @property
    def failures_allowed(self) -> int:
        return self._hooks.failures_allowed

    def run(self, hook: Any, version: Any) -> None:
        self._hooks.run(hook, version)

    def check_health(self, version: Any) -> None:
        self._hooks.check_health(version)

    # What the host does

    def release(self, package: SmallPackage, *, target: str | None = None) -> str:
        """Signs and publishes a package."""
        self.chunks |= package.wire
        name = target or package.manifest.target_name
        self.simulator.release(name, package.manifest_bytes)
        return name

    def assignment(self, target: str, *, key: Any = None, **changes: Any) -> bytes:
        """Signs the next assignment."""
        self.counter += 1
        now = datetime.now(timezone.utc)
        values = {
            "device": DEVICE,
            "counter": self.counter,
            "target": target,
            "issued": now.isoformat(timespec="seconds"),
            "expires": (now + timedelta(days=1)).isoformat(timespec="seconds"),
            **changes,
        }
        return self.simulator.assign(Assignment(**values), key=key)

    # What the device does

    def take(
        self, signed: bytes, *, forbidden: str | None = None, on_trial: bool = False
    ) -> Result:
        """Gives the device an assignment, and steps until it is over or waits.

        Args:
            signed: The assignment.
            forbidden: SHA-256 of a manifest that must not be active.
            on_trial: But on trial it may.

        Raises:
            GuardBrokenError: It was.
        """
        self.told.clear()
        self.bench.surround(self.around)
        self.updater.offer(signed)
        for _ in range(200):
            step = self.updater.step()
            self._watch(forbidden, on_trial=on_trial)
            pending = self.memory.pending
            if step.ended and step.ended.counter == self.counter:
                return _result(step.ended)
            if step.error is not None:
                mine = pending is not None and pending.assignment.counter == self.counter
                if not isinstance(step.error, PASSING) and not mine:
                    return Result("unaccepted", step.error.reason, message=str(step.error))
                state = pending.step if mine and pending else "assigned"
                return Result("waiting", step.error.reason, state, str(step.error))
            if pending is None and not step.ended:
                return Result("unaccepted", "", message="it is known")
            if step.wait_s:
                self.clock.skipped_s += step.wait_s
        raise InterruptedUpdateError(f"still {self.memory.pending} after 200 steps")

    def _watch(self, forbidden: str | None, *, on_trial: bool) -> None:
        current, pending = self.store.current, self.memory.pending
        if forbidden is None or current is None or current.sha256 != forbidden:
            return
        if not (on_trial and pending is not None and pending.step == "trial"):
            raise GuardBrokenError(f"{current.manifest.target_name} is active")

    def forget_offers(self) -> None:
        """Starts the agent again, so that no message waits for another try."""
        self.updater._offers._messages.clear()

    def accept(self, made: Made) -> None:
        """Notes that this package must be the active one from now on."""
        self.good = made

    def check_good(self) -> None:
        """Checks that the application has the good model, with its right answers, and no litter.

        Raises:
            GuardBrokenError: It is not so.
        """
        good, current = self.good, self.store.current
        assert good is not None
        if current is None or current.sha256 != good.package.sha256:
            there = current and current.manifest.target_name
            raise GuardBrokenError(f"{there} is active, not {good.manifest.target_name}")
        if self.app is None:
            self.app = trimtab_agent.load_active(self.state_dir)
        for index in (0, -1):
            sample = [array[index][None] for array in good.samples.inputs]
            answers = self.app.run(sample)
            for answer, promised in zip(answers, good.samples.outputs, strict=True):
                error = np.abs(answer[0].astype(float) - promised[index].astype(float)).max()
                if not error <= good.samples.max_abs_error:
                    raise GuardBrokenError(f"the active model is off by {error}")
        self._check_litter()

    def _check_litter(self) -> None:
        packages = self.state_dir / "packages"
        kept = {v.sha256 for v in (self.store.current, self.store.previous) if v}
        pending = self.memory.pending
        versions = {path.name for path in (packages / "versions").iterdir()}
        if versions != kept or (packages / "committed").is_symlink():
            raise GuardBrokenError(f"litter: {versions - kept}, links of a trial")
        if pending is None and any((packages / "staging").iterdir()):
            raise GuardBrokenError("litter in staging")

    def close(self) -> None:
        self.memory.close()


def _result(report: Report) -> Result:
    failure = report.failure
    if failure is None:
        return Result(report.outcome, report=report)
    return Result(report.outcome, failure.reason, failure.state, failure.message, report)


def gates_off(**limits: Any) -> Mapping[str, Gates]:
    """Returns an assignment's gates with no limit against the running version but these."""
    none = {"latency_ratio": None, "memory_ratio": None, "energy_ratio": None}
    return {"gates": Gates(**{**none, **limits})}
