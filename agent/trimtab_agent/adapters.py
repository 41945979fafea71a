"""The updater's ports over the real network, the real runtimes and the real clock."""

from __future__ import annotations

import functools
import time
from datetime import datetime, timezone

import msgspec

from trimtab_agent import pull
from trimtab_agent.bench.plan import NORMAL, QUICK, Plan
from trimtab_agent.config import MeasureConfig
from trimtab_agent.contract.chunks import distinct_chunks
from trimtab_agent.contract.manifest import Manifest
from trimtab_agent.contract.measurement import Measurement, OperatorTime
from trimtab_agent.contract.messages import Assignment, GoldenCheck, Inventory, Transfer
from trimtab_agent.fetcher import MqttFetcher
from trimtab_agent.store import Version
from trimtab_agent.trust import TrustStore
from trimtab_agent.window import Subscriber


class BrokerSource:
    """Assignments, manifests and chunks from an MQTT broker (`ports.Source`).

    Args:
        link: The connection.
        trust: What is believed.
        device: This device's id.
        timeout_s: Longest silence before something counts as missing.
    """

    def __init__(
        self, link: Subscriber, trust: TrustStore, *, device: str, timeout_s: float
    ) -> None:
        self._link = link
        self._trust = trust
        self._device = device
        self._timeout_s = timeout_s
        self._fetcher = MqttFetcher(link, timeout_s=timeout_s)

    def verify_assignment(self, signed: bytes, *, now: datetime) -> Assignment:
        """See `ports.Source`."""
        return self._trust.verify_assignment(self._fetcher, signed, device=self._device, now=now)

    def manifest(self, target: str) -> bytes:
        """See `ports.Source`."""
        return self._trust.manifest(self._fetcher, target)

    def pull(self, manifest: Manifest, cache: pull.Cache) -> Transfer:
        """See `ports.Source`."""
        chunks = distinct_chunks(manifest.files)
        return pull.pull(self._link, chunks, cache, timeout_s=self._timeout_s)


class DeviceBench:
    """Golden samples and measurements on this device (`ports.Bench`).

    Args:
        profile: Id of the device's hardware profile.
        settings: How to measure.
    """

    def __init__(self, profile: str, settings: MeasureConfig) -> None:
        self._profile = profile
        self._plan = plan_of(settings)

    # Loading `trimtab_agent.bench` takes numpy and psutil with it: only when models are run.

    @functools.cache  # noqa: B019 - one object a process, and it lives as long
    def inventory(self) -> Inventory:
        """See `ports.Bench`."""
        from trimtab_agent import bench

        return bench.inventory(self._profile)

    def check_golden(self, version: Version) -> GoldenCheck:
        """See `ports.Bench`."""
        from trimtab_agent import bench

        manifest = version.manifest
        return bench.check_golden(
            manifest.runtime,
            version.model,
            version.golden,
            manifest.golden,
            cache_dir=version.compiled,
        )

    def measure(self, version: Version) -> Measurement:
        """See `ports.Bench`."""
        from trimtab_agent import bench

        return bench.measure(
            version.manifest.runtime,
            version.model,
            version.golden,
            plan=self._plan,
            cache_dir=version.compiled,
        )

    def time_operators(self, version: Version) -> tuple[OperatorTime, ...] | None:
        """Times every operator of a version; None where its runtime has no profiler."""
        from trimtab_agent import bench

        return bench.time_operators(
            version.manifest.runtime,
            version.model,
            version.golden,
            plan=self._plan,
            cache_dir=version.compiled,
        )

    @property
    def operator_runs(self) -> int:
        """Inferences that `time_operators` adds up."""
        return self._plan.operator_runs


def plan_of(settings: MeasureConfig) -> Plan:
    """Returns the measuring plan that the configuration asks for."""
    plan = NORMAL if settings.plan == "normal" else QUICK
    asked = {"duration_s": settings.duration_s, "energy_s": settings.energy_s}
    given = {name: value for name, value in asked.items() if value is not None}
    return msgspec.structs.replace(plan, **given)


class SystemClock:
    """The machine's clock (`ports.Clock`)."""

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(timezone.utc)

    def sleep(self, seconds: float) -> None:
        """See `ports.Clock`."""
        time.sleep(seconds)
