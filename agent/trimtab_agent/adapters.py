"""The updater's ports over the real network, the real runtimes and the real clock."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol

import msgspec

from trimtab_agent import frames, pull
from trimtab_agent.bench.plan import NORMAL, QUICK, Plan
from trimtab_agent.config import MeasureConfig
from trimtab_agent.contract import codec
from trimtab_agent.contract.chunks import distinct_chunks
from trimtab_agent.contract.commands import COMMAND_CONTEXT, Command
from trimtab_agent.contract.manifest import Manifest
from trimtab_agent.contract.measurement import Comparison, Measurement, OperatorTime
from trimtab_agent.contract.messages import (
    ASSIGNMENT_CONTEXT,
    Assignment,
    GoldenCheck,
    Inventory,
    Transfer,
)
from trimtab_agent.helper_process import Helper
from trimtab_agent.sources import Documents
from trimtab_agent.transfer import Ways
from trimtab_agent.version import Version

if TYPE_CHECKING:
    from trimtab_agent.bench.player import Subject

_INVENTORY_CHILD = "trimtab_agent.bench.inventory_child"


class Trust(Protocol):
    """What is believed: `verifier.Verifier` in a child process, `trust.TrustStore` in this one."""

    def target(self, documents: Documents, name: str) -> bytes:
        """Returns the verified content of a TUF target."""

    def payload(
        self,
        documents: Documents,
        signed: bytes,
        *,
        what: str,
        context: bytes,
        device: str,
        now: datetime,
    ) -> bytes:
        """Returns the payload of a signed message."""


class PackageSource:
    """Assignments, manifests and chunks, wherever they come from (`ports.Source`).

    Args:
        documents: Metadata and manifests.
        ways: Where chunks come from.
        trust: Says what to believe.
        device: This device's id.
    """

    def __init__(self, documents: Documents, ways: Ways, trust: Trust, *, device: str) -> None:
        self._documents = documents
        self._ways = ways
        self._trust = trust
        self._device = device

    def verify_assignment(self, signed: bytes, *, now: datetime) -> Assignment:
        """See `ports.Source`."""
        payload = self._verify(signed, "the assignment", ASSIGNMENT_CONTEXT, now)
        return codec.decode(payload, Assignment, what="the assignment's payload")

    def verify_command(self, signed: bytes, now: datetime) -> Command:
        """Returns the command in a signed message.

        Raises:
            As `verify_assignment`.
        """
        payload = self._verify(signed, "the command", COMMAND_CONTEXT, now)
        return codec.decode(payload, Command, what="the command's payload")

    def _verify(self, signed: bytes, what: str, context: bytes, now: datetime) -> bytes:
        return self._trust.payload(
            self._documents, signed, what=what, context=context, device=self._device, now=now
        )

    def manifest(self, target: str) -> bytes:
        """See `ports.Source`."""
        return self._trust.target(self._documents, target)

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

    # What measures is loaded when something is measured, and stays: 2 MB with what it imports.

    @functools.cache  # noqa: B019 - one object a process, and it lives as long
    def inventory(self) -> Inventory:
        """See `ports.Bench`.

        Raises:
            HelperProcessError: The child process that looks died or hung.
        """
        with Helper(_INVENTORY_CHILD, what="the process that looks at this device") as child:
            child.send(frames.QUESTION, self._profile.encode())
            return codec.decode(child.receive().body, Inventory, what="its answer")

    def check_golden(self, version: Version) -> GoldenCheck:
        """See `ports.Bench`."""
        from trimtab_agent.bench.interface import Interface
        from trimtab_agent.bench.measure import check_golden

        manifest = version.manifest
        return check_golden(
            manifest.runtime,
            version.model,
            version.golden,
            manifest.golden,
            interface=Interface(inputs=manifest.inputs, outputs=manifest.outputs),
            plan=self._plan,
            cache_dir=version.compiled,
        )

    def measure(self, version: Version) -> Measurement:
        """See `ports.Bench`."""
        from trimtab_agent.bench.measure import measure

        return measure(
            version.manifest.runtime,
            version.model,
            version.golden,
            plan=self._plan,
            cache_dir=version.compiled,
        )

    def compare(self, version: Version, running: Version) -> tuple[Measurement, Comparison | None]:
        """See `ports.Bench`."""
        from trimtab_agent.bench.alternate import compare

        return compare(
            _subject(version),
            _subject(running),
            target=running.manifest.target_name,
            plan=self._plan,
        )

    def time_operators(self, version: Version) -> tuple[OperatorTime, ...] | None:
        """Times every operator of a version; None where its runtime has no profiler."""
        from trimtab_agent.bench.measure import time_operators

        return time_operators(
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
    from trimtab_agent.bench.player import Subject

    return Subject(
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

    def monotonic_s(self) -> float:
        """See `ports.Clock`."""
        return time.monotonic()
