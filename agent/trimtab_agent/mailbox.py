"""What came from the broker and waits for the agent, which may be measuring for minutes.

Whoever can publish at the broker can fill this. So it is bounded in every direction: the size of a
message, the number that wait of each kind, and the same message waits once. What is dropped comes
again: the broker keeps assignments, hosts repeat commands, reports are sent until acknowledged.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

import msgspec

from trimtab_agent.contract.layout import MAX_ASSIGNMENT_BYTES

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = MAX_ASSIGNMENT_BYTES
"""No message for the agent itself is larger; chunks and documents do not pass here."""

MAX_WAITING = 16
"""Of each kind."""


# Structs and no named tuples: those of two kinds would be equal if their bytes are.
class Assigned(msgspec.Struct, frozen=True):
    """A signed assignment came."""

    message: bytes


class Acknowledged(msgspec.Struct, frozen=True):
    """The host has stored reports."""

    message: bytes


class Commanded(msgspec.Struct, frozen=True):
    """A signed command came."""

    message: bytes


class Connected(msgspec.Struct, frozen=True):
    """A connection was made."""

    message: bytes = b""


Event = Assigned | Acknowledged | Commanded | Connected


class Mailbox:
    """A bounded queue of events, in the order in which they came. Safe from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Event] = deque()

    def put(self, event: Event) -> None:
        """Adds an event; drops one that is too large, and the oldest of a kind of too many."""
        if len(event.message) > MAX_MESSAGE_BYTES:
            _log.warning(
                "a message of %d bytes was dropped: none for the agent has more than %d",
                len(event.message),
                MAX_MESSAGE_BYTES,
            )
            return
        with self._changed:
            if event in self._waiting:
                return
            alike = [one for one in self._waiting if type(one) is type(event)]
            if len(alike) >= MAX_WAITING:
                self._waiting.remove(alike[0])
            self._waiting.append(event)
            self._changed.notify()

    def get(self, timeout_s: float) -> Event | None:
        """Takes out the event that came first, or returns None if there is none in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, timeout_s):
                return None
            return self._waiting.popleft()

    @property
    def waiting(self) -> tuple[Event, ...]:
        """What waits, oldest first."""
        with self._changed:
            return tuple(self._waiting)
