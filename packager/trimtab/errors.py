"""Everything that `trimtab` raises, sorted by who must act. The roots are the agent's.

TrimtabError (trimtab_agent.errors)
├── CallerError              the person or program that called
│   ├── ModelError           a file that is no model, or one that cannot be loaded
│   ├── UnsupportedOperatorError  operators that a part of Trimtab does not know, all named
│   ├── DataError            data that does not fit the model
│   ├── ProfileError         an unknown or malformed hardware profile
│   ├── RecipeError          a malformed compression recipe
│   └── RepositoryError      a signing repository that is missing, or lacks a key
│       ├── MissingKeyError  a private key that is not on this machine
│       └── StagedError      a change that waits for signatures
├── PackageError
│   ├── ExportError          an exported file that does not do what the original does
│   ├── IntegrityError, FormatError, TrustError   (the agent's)
├── DeviceError
│   └── DeviceTimeoutError   a device that did not answer in time
└── NetworkError, BrokerError (the agent's)
"""

from __future__ import annotations

from collections.abc import Iterable

from trimtab_agent.errors import CallerError, DeviceError, PackageError


class ModelError(CallerError):
    """The file is no model, or not one that can be loaded."""

    reason = "model"


class UnsupportedOperatorError(ModelError):
    """The model has operators that a part of Trimtab does not know.

    Attributes:
        operators: Their names, sorted.
    """

    reason = "unsupported_operator"

    def __init__(self, message: str, operators: Iterable[str]) -> None:
        super().__init__(message)
        self.operators = tuple(sorted(operators))


class DataError(CallerError):
    """The data does not fit the model, or cannot be read."""

    reason = "data"


class ProfileError(CallerError):
    """The hardware profile is unknown or malformed."""

    reason = "profile"


class RecipeError(CallerError):
    """The compression recipe is malformed."""

    reason = "recipe"


class RepositoryError(CallerError):
    """The signing repository is missing, incomplete or lacks a key."""

    reason = "repository"


class MissingKeyError(RepositoryError):
    """A private key is not on this machine, or its token cannot be reached."""

    reason = "missing_key"


class StagedError(RepositoryError):
    """A change is kept, and comes into force once more keys have signed it."""

    reason = "staged"


class ExportError(PackageError):
    """An exported file does not do what the original model does; it was not let out."""

    reason = "export"


class DeviceTimeoutError(DeviceError):
    """The device did not answer in time."""

    reason = "device_timeout"
