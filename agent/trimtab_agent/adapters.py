"""The updater's ports over the real network, the real runtimes and the real clock."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import msgspec

from trimtab_agent import pull
from trimtab_agent.bench.plan import NORMAL, QUICK, Plan
from trimtab_agent.config import MeasureConfig
from trimtab_agent.contract import codec
from trimtab_agent.contract.chunks import distinct_chunks
from trimtab_agent.contract.manifest import Manifest
from trimtab_agent.contract.measurement import Comparison, Measurement, OperatorTime
from trimtab_agent.contract.messages import (
    ASSIGNMENT_CONTEXT,
    Assignment,
    GoldenCheck,
    Inventory,
    Transfer,
)
from trimtab_agent.fetcher import MqttDocuments
from trimtab_agent.store import Version
from trimtab_agent.transfer import Connection, mqtt_ways
from trimtab_agent.verifier import Verifier

if TYPE_CHECKING:
    from trimtab_agent.bench import Subject


class BrokerSource:
    """Assignments, manifests and chunks from an MQTT broker (`ports.Source`).

    Args:
        link: The connection.
        verifier: Says what to believe.
        device: This device's id.
        timeout_s: Longest silence before something counts as missing.
    """

    def __init__(
        self, link: Connection, verifier: Verifier, *, device: str, timeout_s: float
    ) -> None:
        self._verifier = verifier
        self._device = device
        self._ways = mqtt_ways(link, device=device, timeout_s=timeout_s)
        self._documents = MqttDocuments(link, timeout_s=timeout_s)

    def verify_assignment(self, signed: bytes, *, now: datetime) -> Assignment:
        """See `ports.Source`."""
        what = "the assignment"
        payload = self._verifier.payload(
            self._documents,
            signed,
            what=what,
            context=ASSIGNMENT_CONTEXT,
            device=self._device,
            now=now,
        )
        return codec.decode(payload, Assignment, what=f"{what}'s payload")

    def manifest(self, target: str) -> bytes:
        """See `ports.Source`."""
        return self._verifier.target(self._documents, target)

    def pull(
        self,
        manifest: Manifest,
        cache: pull.Cache,
        *,
        group: str | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Transfer:
        """See `ports.Source`."""
        return pull.pull(self._ways(group), distinct_chunks(manifest.files), cache, stop=stop)


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

    def compare(self, version: Version, running: Version) -> tuple[Measurement, Comparison | None]:
        """See `ports.Bench`."""
        from trimtab_agent import bench

        return bench.compare(
            _subject(version),
            _subject(running),
            target=running.manifest.target_name,
            plan=self._plan,
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


def _subject(version: Version) -> Subject:
    """Returns what there is to measure of a version."""
    from trimtab_agent import bench

    return bench.Subject(
        runtime=version.manifest.runtime,
        model_path=version.model,
        golden_path=version.golden,
        cache_dir=version.compiled,
    )


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
