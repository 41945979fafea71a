"""What a device does with its store while there is nothing to update.

Disks rot: every file of the active version is read once after the start and then once a day. What
is damaged is made again from the chunks that are kept, and those that are damaged too are fetched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from trimtab_agent.errors import (
    HelperProcessError,
    IntegrityError,
    InterruptedUpdateError,
    NetworkError,
    StorageError,
)
from trimtab_agent.ports import Clock, Source
from trimtab_agent.states import back_off_s
from trimtab_agent.store import Store
from trimtab_agent.version import Version

_log = logging.getLogger(__name__)
CHECK_EVERY_S = 24 * 3600.0
SOON_S = 300.0


class Healer:
    """Keeps a store whole and tidy.

    Args:
        store: The versions on disk.
        source: Where chunks come from.
        clock: Time.
    """

    def __init__(self, store: Store, source: Source, clock: Clock) -> None:
        self._store = store
        self._source = source
        self._clock = clock
        self._next_s = clock.monotonic_s()
        self._failures = 0
        self._littered = False

    def collect_garbage(self) -> None:
        """Removes what is no longer needed; what the disk refuses now is removed later."""
        try:
            self._store.collect_garbage()
            self._littered = False
        except StorageError as error:
            _log.warning("%s; what is no longer needed is removed later", error)
            self._littered = True
            self._next_s = self._clock.monotonic_s() + SOON_S

    def step(self, stop: Callable[[], bool], *, may_fetch: bool) -> float:
        """Does what is due.

        Args:
            stop: Says whether to leave a transfer off.
            may_fetch: Whether the network may be used.

        Returns:
            Seconds until something is due again.

        Raises:
            StorageError: The disk refuses.
        """
        left_s = self._next_s - self._clock.monotonic_s()
        if left_s > 0:
            return left_s
        wait_s = CHECK_EVERY_S
        version = self._store.current
        damage = self._store.damage(version) if version else None
        if version and damage:
            _log.error("%s is damaged: %s", version.manifest.target_name, damage)
            wait_s = self._heal(version, stop, may_fetch=may_fetch)
        self._next_s = self._clock.monotonic_s() + wait_s
        if self._littered:
            self.collect_garbage()
        return self._next_s - self._clock.monotonic_s()

    def _heal(self, version: Version, stop: Callable[[], bool], *, may_fetch: bool) -> float:
        """Makes a damaged version again; returns the seconds until it should be looked at."""
        try:
            if may_fetch:
                self._source.pull(
                    self._store.cheapest(version.manifest), self._store.chunks, stop=stop
                )
            self._store.install(version.manifest_bytes, anew=True)
        except InterruptedUpdateError:
            return 0.0
        except (NetworkError, IntegrityError, HelperProcessError) as error:
            _log.warning("%s cannot be made again yet: %s", version.manifest.target_name, error)
            self._failures += 1
            return back_off_s(self._failures - 1)
        _log.warning("%s was made again", version.manifest.target_name)
        self._failures = 0
        return CHECK_EVERY_S
