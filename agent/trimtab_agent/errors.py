"""Everything that `trimtab_agent` raises, sorted by who must act.

    TrimtabError
    ├── CallerError        the person or program that called: a wrong option, file or setting
    │   ├── ConfigError    the agent's configuration file
    │   └── WithdrawnError           what was asked for is no longer wanted
    │       ├── SupersededError      a newer assignment took its place
    │       └── RollbackOrderedError a person ordered the version before
    ├── PackageError       whoever made the package or the message
    │   ├── FormatError    bytes that are not what they should be
    │   ├── IntegrityError a hash or a length that does not match
    │   ├── TrustError     a signature or version that the trust rules refuse
    │   │   ├── ReplayError          a counter that was used before
    │   │   └── ExpiredError         too old by this device's clock
    │   ├── GoldenError    outputs on the device that differ from those in the package
    │   ├── AccuracyError  a task metric on the device under what the package promises
    │   ├── GateError      a figure measured on the device over its limit
    │   └── HealthError    the device's own check failed while the version was on trial
    ├── DeviceError        the device: its disk, memory, runtime or sensors
    │   ├── StorageError   no room, or a file that cannot be written
    │   │   └── DamagedError         what is on the disk is not what was written
    │   ├── HardwareError  the package is for other hardware
    │   │   ├── ArchitectureError    another processor architecture
    │   │   └── TooLittleMemoryError less main memory than it needs
    │   ├── RuntimeUnavailableError  no runtime here can load the model
    │   ├── MeasurementError         the child process that ran the model failed
    │   ├── HelperProcessError       another child process of the agent failed
    │   ├── HookError      a command of this device's configuration failed
    │   └── AttemptsError  the device went down again and again in the same step
    ├── NetworkError       the connection or the broker
    │   ├── BrokerError    no connection, or one that was refused
    │   ├── TransferTimeoutError     something that was asked for did not come
    │   └── DocumentMissingError     a source says that it does not have a document
    └── InterruptedUpdateError       nobody: work was left off on request, and goes on later

Each message says what is wrong, where, what was received, and the way out. `reason` is a short
stable word for machines: it is what a report carries and what `--json` prints. docs/updates.md
lists every reason that can end an update.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar


class TrimtabError(Exception):
    """Base of every error that Trimtab raises on purpose.

    Attributes:
        reason: A stable word for programs, such as `"integrity"`.
        exit_code: What a command exits with when this error ends it.
    """

    reason: str = "error"
    exit_code: ClassVar[int] = 1

    @classmethod
    def reasons(cls) -> frozenset[str]:
        """Returns every value that `reason` can have in this class, subclasses apart."""
        return frozenset({cls.reason})


class CallerError(TrimtabError):
    """The caller gave something that cannot be used."""

    reason = "caller"
    exit_code = 2


class ConfigError(CallerError):
    """The agent's configuration file is missing, malformed or contradictory."""

    reason = "config"


class WithdrawnError(CallerError):
    """What was asked for is no longer wanted."""

    reason = "withdrawn"


class SupersededError(WithdrawnError):
    """A newer assignment took the place of this one before it was over."""

    reason = "superseded"


class RollbackOrderedError(WithdrawnError):
    """A person ordered the version before this one."""

    reason = "command"


class IdentityError(CallerError):
    """A token or a certificate is missing, damaged, expired or refused."""

    reason = "identity"


class PackageError(TrimtabError):
    """A package or a message is wrong, and its maker must mend it."""

    reason = "package"
    exit_code = 3


class FormatError(PackageError):
    """Bytes do not decode to what they should be."""

    reason = "format"


class IntegrityError(PackageError):
    """A hash or a length does not match what was signed."""

    reason = "integrity"


class TrustError(PackageError):
    """A signature, a version, a counter or an expiry is refused."""

    reason = "trust"


class ReplayError(TrustError):
    """A counter is not above the last one that was accepted."""

    reason = "replay"


class ExpiredError(TrustError):
    """Something signed is too old by this device's clock; a newer one, or the right time, helps."""

    reason = "expired"


class GoldenError(PackageError):
    """The model's outputs on this device are not those that the package promises."""

    reason = "golden"


class AccuracyError(PackageError):
    """The model is worse at its task on this device than the package promises."""

    reason = "accuracy"


class GateError(PackageError):
    """A figure that was measured on the device is over its limit.

    Args:
        message: What was measured, and the limit.
        gate: `latency`, `memory` or `energy`.
        against: `budget` or `running`.
    """

    reason = "gate"

    def __init__(self, message: str, *, gate: str = "", against: str = "") -> None:
        super().__init__(message)
        if gate:
            self.reason = f"{gate}_{against}"

    @classmethod
    def reasons(cls) -> frozenset[str]:
        """See `TrimtabError.reasons`."""
        pairs = itertools.product(("latency", "memory", "energy"), ("budget", "running"))
        return frozenset({cls.reason, *(f"{gate}_{against}" for gate, against in pairs)})


class HealthError(PackageError):
    """The device's health command failed while the version was on trial."""

    reason = "health"


class DeviceError(TrimtabError):
    """The device cannot do what was asked."""

    reason = "device"
    exit_code = 4


class StorageError(DeviceError):
    """The disk has no room, or refuses a write."""

    reason = "storage"


class DamagedError(StorageError):
    """What is on the disk is not what was written there."""

    reason = "damaged"


class HardwareError(DeviceError):
    """The package is for other hardware."""

    reason = "hardware"


class ArchitectureError(HardwareError):
    """The package is for another processor architecture."""

    reason = "architecture"


class TooLittleMemoryError(HardwareError):
    """The package needs more main memory than the device has."""

    reason = "memory"


class RuntimeUnavailableError(DeviceError):
    """The runtime or the provider that the package asks for is not on this device."""

    reason = "runtime"


class MeasurementError(DeviceError):
    """The process that ran the model crashed, was killed, or ran out of time."""

    reason = "measurement"


class HookError(DeviceError):
    """A command of this device's configuration failed, hangs or cannot be started."""

    reason = "hook"


class AttemptsError(DeviceError):
    """The device went down again and again in the same step of an update."""

    reason = "attempts"


class HelperProcessError(DeviceError):
    """A child process of the agent died, hung or said rubbish; trying again later may help."""

    reason = "helper"


class NetworkError(TrimtabError):
    """The network or the broker is in the way; trying again later may help."""

    reason = "network"
    exit_code = 5


class BrokerError(NetworkError):
    """The broker cannot be reached, or refuses the connection."""

    reason = "broker"


class TransferTimeoutError(NetworkError):
    """Something that was asked for did not arrive in time."""

    reason = "transfer_timeout"


class DocumentMissingError(NetworkError):
    """A source does not have a document, for certain. TUF's client asks for roots until then."""

    reason = "document_missing"


class InterruptedUpdateError(TrimtabError):
    """Work was left off because its caller asked for that; what was done is kept."""

    reason = "interrupted"


def kind_of(reason: str) -> type[TrimtabError]:
    """Returns the class of the errors with this `reason`; `TrimtabError` for an unknown one."""
    return next((kind for kind in _kinds(TrimtabError) if reason in kind.reasons()), TrimtabError)


def _kinds(kind: type[TrimtabError]) -> Iterator[type[TrimtabError]]:
    """Yields `kind` and every class below it."""
    yield kind
    for subclass in kind.__subclasses__():
        yield from _kinds(subclass)
