"""What the updater needs from the world, so that it can be run against any world."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from trimtab_agent.contract.manifest import Manifest
from trimtab_agent.contract.measurement import Measurement
from trimtab_agent.contract.messages import Assignment, GoldenCheck, Inventory, Transfer
from trimtab_agent.pull import Cache
from trimtab_agent.store import Version


class Source(Protocol):
    """Where assignments, manifests and chunks come from."""

    def verify_assignment(self, signed: bytes, *, now: datetime) -> Assignment:
        """Returns the assignment in a signed message.

        Raises:
            FormatError: It cannot be read.
            TrustError: It is not signed as it must be, not for this device, or expired.
            NetworkError: What proves it could not be fetched.
        """

    def manifest(self, target: str) -> bytes:
        """Returns the verified manifest that is the TUF target `target`.

        Raises:
            TrustError: It is not signed.
            IntegrityError: It is not what was signed.
            NetworkError: It could not be fetched.
        """

    def pull(self, manifest: Manifest, cache: Cache) -> Transfer:
        """Brings a package's chunks into the cache.

        Raises:
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
            FormatError: The model or the samples cannot be read.
            DeviceError: The runtime is missing, or the process died.
        """

    def measure(self, version: Version) -> Measurement:
        """Measures latency, memory and energy.

        Raises:
            FormatError: The model cannot be read.
            DeviceError: The runtime is missing, or the process died.
        """


class Clock(Protocol):
    """Time, and waiting for it to pass."""

    def now(self) -> datetime:
        """Returns the time in UTC."""

    def sleep(self, seconds: float) -> None:
        """Waits."""
