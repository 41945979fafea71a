"""Everything that `trimtab_agent` raises, sorted by who must act.

    TrimtabError
    ├── CallerError        the person or program that called: a wrong option, file or setting
    │   └── ConfigError    the agent's configuration file
    ├── PackageError       whoever made the package or the message
    │   ├── FormatError    bytes that are not what they should be
    │   ├── IntegrityError a hash or a length that does not match
    │   ├── TrustError     a signature, version or expiry that the trust rules refuse
    │   └── GoldenError    outputs on the device that differ from those in the package
    ├── DeviceError        the device: its disk, memory, runtime or sensors
    │   ├── StorageError   no room, or a file that cannot be written
    │   ├── RuntimeUnavailableError  no runtime here can load the model
    │   └── MeasurementError         the child process that ran the model failed
    └── NetworkError       the connection or the broker
        ├── BrokerError    no connection, or one that was refused
        ├── TransferTimeoutError     something that was asked for did not come
        └── DocumentMissingError     a source says that it does not have a document

Each message says what is wrong, where, what was received, and the way out. `reason` is a short
stable word for machines: it is what a report carries and what `--json` prints.
"""

from __future__ import annotations

from typing import ClassVar


class TrimtabError(Exception):
    """Base of every error that Trimtab raises on purpose.

    Attributes:
        reason: A stable word for programs, such as `"integrity"`.
        exit_code: What a command exits with when this error ends it.
    """

    reason: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class CallerError(TrimtabError):
    """The caller gave something that cannot be used."""

    reason = "caller"
    exit_code = 2


class ConfigError(CallerError):
    """The agent's configuration file is missing, malformed or contradictory."""

    reason = "config"


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


class GoldenError(PackageError):
    """The model's outputs on this device are not those that the package promises."""

    reason = "golden"


class DeviceError(TrimtabError):
    """The device cannot do what was asked."""

    reason = "device"
    exit_code = 4


class StorageError(DeviceError):
    """The disk has no room, or refuses a write."""

    reason = "storage"


class RuntimeUnavailableError(DeviceError):
    """The runtime or the provider that the package asks for is not on this device."""

    reason = "runtime"


class MeasurementError(DeviceError):
    """The process that ran the model crashed, was killed, or ran out of time."""

    reason = "measurement"


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
