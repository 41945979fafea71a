"""A broker that is started again when it dies, and follows what the register says."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from types import TracebackType

from trimtab.fleet.broker import Broker
from trimtab.fleet.brokers import BrokerTls
from trimtab.fleet.gatekeeper import Gatekeeper, Needed
from trimtab.fleet.registry import Registry
from trimtab_agent.errors import BrokerError, StorageError

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
"""How soon a new token can be used and a revoked device is gone."""
MOST_DEATHS = 5
WITHIN_S = 60.0
"""A broker that dies this often in this time is not started again: something must be mended."""


class SupervisedBroker:
    """Keeps a broker running. Call `tend` every `LOOK_EVERY_S`.

    Args:
        start: Starts the broker, every time on the same port.
        guard: Who may come in, for a broker with TLS.
    """

    def __init__(self, start: Callable[[], Broker], guard: Guard | None = None) -> None:
        self._start = start
        self._guard = guard
        self._trouble: str | None = None
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._broker = start()
        if guard:
            guard.note_in_force()

    def __enter__(self) -> SupervisedBroker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._broker.close()

    @property
    def broker(self) -> Broker:
        """The broker that runs now."""
        return self._broker

    def reload(self) -> None:
        """Has the broker read its files again."""
        self._broker.reload()

    def tend(self) -> None:
        """Starts the broker again if it died, and tells it of what changed in the register.

        Raises:
            BrokerError: It died too often, or does not start.
            RepositoryError: The certificate authority's files are damaged.
        """
        needed = self._look()
        if self._broker.ended is not None:
            self._count_death(self._broker.ended)
            needed = Needed.RESTART
        if needed is Needed.RESTART:
            self._broker.close()
            self._broker = self._start()
        elif needed is Needed.RELOAD:
            self._broker.reload()
        if self._guard and self._trouble is None:
            with contextlib.suppress(StorageError):  # noted after one of the next looks
                self._guard.note_in_force()

    def _look(self) -> Needed:
        """Follows the register; a full disk does not end the broker."""
        if self._guard is None:
            return Needed.NOTHING
        try:
            needed = self._guard.look()
        except StorageError as error:
            if str(error) != self._trouble:  # said once, not twice a second
                _log.warning("%s; the broker goes on with what it knows", error)
            self._trouble = str(error)
            return Needed.NOTHING
        self._trouble = None
        return needed

    def _count_death(self, status: int) -> None:
        self._deaths.append(time.monotonic())
        if len(self._deaths) == MOST_DEATHS and self._deaths[-1] - self._deaths[0] < WITHIN_S:
            raise BrokerError(
                f"the broker died {MOST_DEATHS} times within {WITHIN_S:g} s, the last time with "
                f"status {status}; its log is beside its configuration, in the workspace's broker/"
            )
        _log.warning("the broker died with status %s; starting it again", status)


class Guard:
    """A gatekeeper, and how far the register is in force.

    Args:
        gatekeeper: Writes the broker's files.
        registry: What it follows.

    Attributes:
        tls: The broker's configuration; its files are written.
    """

    def __init__(self, gatekeeper: Gatekeeper, registry: Registry) -> None:
        self._gatekeeper = gatekeeper
        self._registry = registry
        self._noted: int | None = None
        self._seen = registry.revision  # before they are written: what comes later is not in them
        self.tls: BrokerTls = gatekeeper.write_all(datetime.now(timezone.utc))

    def look(self) -> Needed:
        """Writes what has changed; says what the broker needs."""
        self._seen = self._registry.revision
        return self._gatekeeper.look(self.tls, datetime.now(timezone.utc))

    def note_in_force(self) -> None:
        """Notes that the broker has been told all that the last look saw."""
        if self._noted != self._seen:
            self._registry.note_in_force(self._seen)
            self._noted = self._seen
