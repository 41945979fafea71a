"""The active model, for the application on the device.

    model = trimtab_agent.load_active()
    scores, = model.run([window])

The application needs no connection to the agent: it follows the symlink `packages/current`, which
the agent replaces in one step. An update is taken up by the next `run`, without a restart.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab_agent.contract.manifest import Manifest
from trimtab_agent.errors import CallerError, PackageError, StorageError, TrimtabError
from trimtab_agent.runtimes import Session, load
from trimtab_agent.version import Version, read_version

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

STATE_DIR = Path("/var/lib/trimtab")
"""Where the systemd unit keeps the agent's state."""

_TRIES = 3
"""A version can be replaced twice while it is being loaded, and its directory removed."""

_log = logging.getLogger(__name__)


def load_active(state_dir: Path | str = STATE_DIR) -> ActiveModel:
    """Loads the model that the agent has made active, in the runtime of its package.

    Args:
        state_dir: The agent's `state_dir`. Read access is enough.

    Raises:
        CallerError: Nothing is active there.
        DamagedError: The package is damaged.
        RuntimeUnavailableError: Its runtime is not installed for this Python.
        StorageError: It cannot be read.
    """
    return ActiveModel(Path(state_dir) / "packages")


class ActiveModel:
    """The active model. Safe to use from several threads; one inference runs at a time.

    Args:
        packages: The agent's folder of packages.

    Raises:
        As `load_active`.
    """

    def __init__(self, packages: Path) -> None:
        self._current = packages / "current"
        self._lock = threading.Lock()
        self._refused: str | None = None
        self._version, self._session = self._load()

    @property
    def manifest(self) -> Manifest:
        """What the loaded package says of itself: inputs, outputs, labels, processing."""
        return self._version.manifest

    @property
    def path(self) -> Path:
        """The directory of the loaded package, for other files in it."""
        return self._version.path

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Runs one inference, after a switch with the new model.

        Where the new model cannot be loaded here the old one goes on, and a warning is logged.

        Args:
            arrays: One for each input in the manifest: shape, dtype and layout as it says. They
                may change with the package: look at `manifest` after `reload`.

        Returns:
            One array for each output.

        Raises:
            CallerError: The arrays do not fit the model, or nothing is active any more.
            DeviceError: The runtime failed.
        """
        self.reload()
        with self._lock:
            return self._session.run(arrays)

    def reload(self) -> bool:
        """Takes up the version that is active now; costs a microsecond where it is the same.

        Returns:
            Whether another version is loaded now.

        Raises:
            CallerError: Nothing is active any more: the agent took back the only version.
        """
        there = self._target()
        with self._lock:
            if there in (self._version.sha256, self._refused):
                return False
            try:
                self._version, self._session = self._load()
            except TrimtabError as error:
                self._refused = there
                _log.warning("the active model cannot be loaded, the old one goes on: %s", error)
                return False
            self._refused = None
        return True

    def _target(self) -> str:
        """Returns the manifest hash that `current` points to."""
        try:
            return os.path.basename(os.readlink(self._current))  # noqa: PTH115, PTH119 - 10x faster
        except OSError as error:
            raise CallerError(
                f"nothing is active: {self._current} cannot be followed ({error.strerror}); "
                f"assign a package to this device, or give the agent's own state_dir"
            ) from error

    def _load(self) -> tuple[Version, Session]:
        """Loads what `current` points to; again where it was replaced meanwhile."""
        for _ in range(_TRIES):
            version = read_version(self._current)
            if version is None:
                self._target()  # tells why
                continue
            try:
                return version, _open(version)
            except (PackageError, StorageError):
                if self._target() == version.sha256:
                    raise
        raise StorageError(f"{self._current} changes faster than it can be loaded: try again")


def _open(version: Version) -> Session:
    runtime = version.manifest.runtime
    compiled = version.compiled
    return load(
        runtime.name,
        version.model,
        threads=runtime.threads,
        options=runtime.options,
        # The agent's user owns it: another user's program compiles anew at every start.
        cache_dir=compiled if os.access(compiled, os.W_OK) else None,
    )
