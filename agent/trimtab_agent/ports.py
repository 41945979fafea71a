"""What the updater needs from the world, so that it can be run against any world."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, Protocol

from trimtab_agent.contract.manifest import Manifest
from trimtab_agent.contract.measurement import Comparison, Measurement
from trimtab_agent.contract.messages import Assignment, GoldenCheck, Inventory, Transfer
from trimtab_agent.pull import Cache
from trimtab_agent.version import Version


class Source(Protocol):
    """Where assignments, manifests and chunks come from."""

    def verify_assignment(self, signed: bytes, *, now: datetime) -> Assignment:
        """Returns the assignment in a signed message.

        Raises:
            FormatError: It cannot be read.
            TrustError: It is not signed as it must be, or not for this device.
            ExpiredError: It, or what proves it, is too old by this device's clock.
            NetworkError: What proves it could not be fetched.
        """

    def manifest(self, target: str) -> bytes:
        """Returns the verified manifest that is the TUF target `target`.

        Raises:
            TrustError: It is not signed.
            IntegrityError: It is not what was signed.
            NetworkError: It could not be fetched.
        """

    def pull(
        self,
        manifest: Manifest,
        cache: Cache,
        *,
        group: str | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Transfer:
        """Brings a package's chunks into the cache.

        Args:
            manifest: The package, with the chunks that are wanted.
            cache: Where they go.
            group: Whose broadcast to listen to, or None.
            stop: Says whether to leave off.

        Raises:
            InterruptedUpdateError: `stop` said True; what came is in the cache.
            IntegrityError: A chunk has other bytes than the manifest says.
            NetworkError: A chunk could not be fetched; those that came are in the cache.
            StorageError: The disk is full.
        """


class Bench(Protocol):
    """What runs models, each in a process of its own."""

    def inventory(self) -> Inventory:
        """Returns what this device is."""

    def check_golden(self, version: Version) -> GoldenCheck:
        """Runs the golden samples.

        Raises:
            GoldenError: The outputs differ from the package's by more than it allows.
            AccuracyError: The labels are met less often than the package promises.
            FormatError: The model or the samples cannot be read.
            DeviceError: The runtime is missing, or the process died.
        """

    def measure(self, version: Version) -> Measurement:
        """Measures latency, memory and energy.

        Raises:
            FormatError: The model cannot be read.
            DeviceError: The runtime is missing, or the process died.
        """

    def compare(self, version: Version, running: Version) -> tuple[Measurement, Comparison | None]:
        """Measures a version and the one that runs, in turns on the same machine.

        Returns:
            The measurement of `version`, and the comparison; None where the running one cannot be
            measured.

        Raises:
            As `measure`.
        """


HookName = Literal["before_switch", "after_switch", "after_rollback"]


class Hooks(Protocol):
    """The commands that this device has configured for its updates.

    Attributes:
        has_health: Whether there is a health command.
        interval_s: Time between two runs of it.
        failures_allowed: Failures in a row that it may have.
    """

    has_health: bool
    interval_s: float
    failures_allowed: int

    def run(self, hook: HookName, version: Version | None) -> None:
        """Runs a hook, if it is configured.

        Args:
            hook: Which.
            version: The version that it is about; None where none is left.

        Raises:
            HookError: It failed, hangs or cannot be started.
        """

    def check_health(self, version: Version) -> None:
        """Runs the health command.

        Raises:
            HealthError: It failed, hangs or cannot be started.
        """


class Clock(Protocol):
    """Time. `now` jumps when somebody sets the clock; `monotonic_s` never does."""

    def now(self) -> datetime:
        """Returns the time in UTC."""

    def monotonic_s(self) -> float:
        """Returns seconds from any start, never backwards."""
