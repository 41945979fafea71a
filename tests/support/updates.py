"""A world for the updater: a source, a bench, hooks and a clock that fail on demand.

Time passes only when it is told to: `World.uptime_s`. `World.clock_set_by_s` is by how much
somebody has set the clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from support.manifests import SmallPackage
from trimtab_agent.contract import codec
from trimtab_agent.contract.chunks import distinct_chunks
from trimtab_agent.contract.measurement import (
    Comparison,
    Energy,
    Environment,
    Latency,
    Measurement,
    Memory,
)
from trimtab_agent.contract.messages import (
    Assignment,
    GoldenCheck,
    Inventory,
    Report,
    RuntimeInfo,
    Transfer,
)
from trimtab_agent.errors import ExpiredError, InterruptedUpdateError, PackageError, TrustError
from trimtab_agent.state import Memory as StateMemory
from trimtab_agent.state import open_memory
from trimtab_agent.store import Store
from trimtab_agent.updater import Updater

IDLE_S = 3600.0
"""A step that is due so late is none of an update."""

INVENTORY = Inventory(
    profile="generic-x86-64",
    architecture="x86_64",
    cpu_model=None,
    cores=2,
    ram_bytes=2**30,
    os="Debian 12",
    kernel="6.1",
    python="3.11",
    agent_version="0.1.0",
    runtimes={"tflite": RuntimeInfo(distribution="ai-edge-litert", version="2")},
    power_source=None,
)
MEASUREMENT = Measurement(
    runtime="tflite",
    runtime_version="2",
    provider=None,
    latency=Latency(
        count=1,
        warmup_count=0,
        load_us=1.0,
        first_us=1.0,
        mean_us=1.0,
        min_us=1.0,
        max_us=1.0,
        p50_us=1500.0,
        p90_us=None,
        p95_us=None,
        p99_us=None,
        p50_interval_us=None,
        p95_interval_us=None,
        steady=True,
        threads=1,
        raw_us=b"\x01\x00\x00\x00",
    ),
    memory=Memory(
        peak_rss_bytes=2**25,
        baseline_rss_bytes=1,
        model_peak_bytes=1,
        pss_bytes=None,
        available_drop_bytes=None,
    ),
    energy=Energy(level="none"),
    environment=Environment(),
)


class PowerCut(BaseException):
    """The machine goes down: nothing may catch this."""


@dataclass
class World:
    """Packages by target name, and what happens at each kind of work.

    `faults` maps the name of a port's method to the exceptions that its next calls raise, in
    order; None stands for a call that works.
    """

    packages: dict[str, SmallPackage] = field(default_factory=dict)
    faults: dict[str, list[BaseException | None]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    measurements: dict[str, Measurement] = field(default_factory=dict)
    has_health: bool = False
    interval_s: float = 10.0
    failures_allowed: int = 0
    uptime_s: float = 0.0
    clock_set_by_s: float = 0.0

    def _called(self, name: str) -> None:
        self.calls.append(name)
        queue = self.faults.get(name, [])
        fault = queue.pop(0) if queue else None
        if fault is not None:
            raise fault

    def release(self, package: SmallPackage) -> str:
        name = package.manifest.target_name
        self.packages[name] = package
        return name

    # Source

    def verify_assignment(self, signed: bytes, *, now: datetime) -> Assignment:
        self._called("verify_assignment")
        return codec.decode(signed, Assignment, what="the assignment")

    def manifest(self, target: str) -> bytes:
        self._called("manifest")
        if target not in self.packages:
            raise TrustError(f"{target} is not released")
        return self.packages[target].manifest_bytes

    def pull(self, manifest, cache, *, group=None, stop=lambda: False) -> Transfer:
        self._called("pull")
        package = self.packages[manifest.target_name]
        chunks = distinct_chunks(manifest.files)
        for chunk in chunks:
            if stop():
                raise InterruptedUpdateError("asked to leave off")
            cache.put(chunk, package.wire[chunk.sha256])
        return Transfer(chunks=len(chunks), chunks_reused=0, wire_bytes=1, duration_s=0.1)

    # Bench

    def inventory(self) -> Inventory:
        return INVENTORY

    def check_golden(self, version) -> GoldenCheck:
        self._called("check_golden")
        assert version.model.exists()
        return GoldenCheck(samples=1, max_abs_error=0.0, limit=0.1)

    def measure(self, version) -> Measurement:
        self._called("measure")
        assert version.model.exists()
        return self.measurements.get(version.manifest.target_name, MEASUREMENT)

    def compare(self, version, running) -> tuple[Measurement, Comparison | None]:
        self._called("compare")
        assert version.model.exists()
        assert running.model.exists()
        new, old = (
            self.measurements.get(each.manifest.target_name, MEASUREMENT)
            for each in (version, running)
        )
        ratio = new.latency.p50_us / old.latency.p50_us
        return new, Comparison(
            target=running.manifest.target_name,
            rounds=3,
            running=old,
            latency_ratio=ratio,
            latency_interval=(ratio * 0.99, ratio * 1.01),
            memory_ratio=new.memory.peak_rss_bytes / old.memory.peak_rss_bytes,
            energy_ratio=None,
            energy_interval=None,
        )

    # Hooks

    def run(self, hook, version) -> None:
        self._called(hook)

    def check_health(self, version) -> None:
        self._called("check_health")
        assert version.model.exists()

    # Clock

    def now(self) -> datetime:
        passed = timedelta(seconds=self.uptime_s + self.clock_set_by_s)
        return datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc) + passed

    def monotonic_s(self) -> float:
        return self.uptime_s


class Device:
    """An updater on a real store and database, in a world that fails on demand."""

    def __init__(self, directory, *, world: World | None = None, free=None) -> None:
        self.directory = directory
        self.world = world or World()
        self.told: list[str] = []
        self.options = {"free": free} if free else {}
        self.memory: StateMemory | None = None
        self.boot()

    def boot(self) -> None:
        """What a start after a power cut does."""
        self.open()
        self.updater.clean_up()

    def open(self) -> None:
        """Makes everything anew from the disk."""
        if self.memory:
            self.memory.close()
        self.store = Store(self.directory / "packages", **self.options)
        self.memory = open_memory(self.directory / "state.sqlite")
        self.updater = Updater(
            memory=self.memory,
            store=self.store,
            source=self.world,
            bench=self.world,
            hooks=self.world,
            clock=self.world,
            notify=lambda progress: self.told.append(progress.state),
        )

    def close(self) -> None:
        self.memory.close()

    @property
    def active(self) -> str | None:
        current = self.store.current
        return current.manifest.target_name if current else None

    @property
    def reports(self) -> list[Report]:
        found = map(self.memory.report, self.memory.outbox)
        return [codec.decode(data, Report, what="report") for data in found]

    def run(self, *, until=None, limit: int = 200) -> Report | None:
        """Steps, with time passing, until an update is over or nothing is left to do.

        Args:
            until: Ends early once this says so of a step.
            limit: Steps.
        """
        for _ in range(limit):
            step = self.updater.step()
            if step.ended:
                return step.ended
            if until and until(step):
                return None
            if isinstance(step.error, PackageError) and not isinstance(step.error, ExpiredError):
                raise step.error
            if step.wait_s is None or step.wait_s >= IDLE_S:
                return None
            self.world.uptime_s += step.wait_s
        raise AssertionError(f"still {self.memory.pending} after {limit} steps")

    def run_to(self, state: str) -> None:
        """Steps until an update has reached a state."""
        for _ in range(50):
            if self.memory.pending and self.memory.pending.step == state:
                return
            self.updater.step()
        raise AssertionError(f"never came to {state}")

    def assign(self, counter, package, **options) -> None:
        target = self.world.release(package)
        self.updater.offer(assignment_message(counter, target, **options))

    def update(self, counter, package, **options) -> Report | None:
        self.assign(counter, package, **options)
        return self.run()


def assignment_message(counter: int, target: str, **options) -> bytes:
    """Returns an assignment as `World.verify_assignment` reads it."""
    return codec.encode(
        Assignment(
            device="dev-1",
            counter=counter,
            target=target,
            issued="2026-11-22T00:00:00Z",
            expires="2027-11-22T00:00:00Z",
            **options,
        )
    )
