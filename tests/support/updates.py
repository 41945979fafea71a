"""A world for the updater: a source, a bench and a clock that fail on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from support.manifests import SmallPackage
from trimtab_agent.contract import codec
from trimtab_agent.contract.chunks import distinct_chunks
from trimtab_agent.contract.measurement import Energy, Environment, Latency, Measurement, Memory
from trimtab_agent.contract.messages import (
    Assignment,
    GoldenCheck,
    Inventory,
    RuntimeInfo,
    Transfer,
)
from trimtab_agent.errors import TrustError

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
    slept_s: float = 0.0

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

    def pull(self, manifest, cache) -> Transfer:
        self._called("pull")
        package = self.packages[manifest.target_name]
        chunks = distinct_chunks(manifest.files)
        for chunk in chunks:
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
        return MEASUREMENT

    # Clock

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc) + timedelta(seconds=self.slept_s)

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds


def assignment_message(counter: int, target: str, *, trial: str | None = None) -> bytes:
    """Returns an assignment as `World.verify_assignment` reads it."""
    return codec.encode(
        Assignment(
            device="dev-1",
            counter=counter,
            target=target,
            issued="2026-11-22T00:00:00Z",
            expires="2027-11-22T00:00:00Z",
            trial=trial,
        )
    )
