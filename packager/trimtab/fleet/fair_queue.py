"""Requests of many devices, answered in turns, so that one that asks much delays only itself."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

MAX_WAITING = 256
"""Requests of one device that wait: four whole want-lists. What comes beyond is dropped: a device
asks again for what did not come."""

MAX_DEVICES = 10_000
"""Devices that wait: where nobody checks names, a stranger can invent some."""


class Request(NamedTuple):
    """One chunk that one device wants.

    Attributes:
        device: Who wants it.
        sha256: Which chunk.
        correlation: What the device put beside its last want-list with it, in hexadecimal.
    """

    device: str
    sha256: str
    correlation: str


class FairQueue:
    """A bounded queue with a turn for each device. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, OrderedDict[str, str]] = OrderedDict()
        self._closed = False

    def put(self, requests: list[Request]) -> int:
        """Adds requests; the same one again only replaces its correlation.

        Returns:
            How many were dropped because too many wait.
        """
        dropped = 0
        with self._changed:
            for device, sha256, correlation in requests:
                own = self._waiting.get(device)
                if own is None and len(self._waiting) < MAX_DEVICES:
                    own = self._waiting[device] = OrderedDict()
                if own is None or (sha256 not in own and len(own) >= MAX_WAITING):
                    dropped += 1
                else:
                    own[sha256] = correlation
            self._changed.notify_all()
        return dropped

    def get(self) -> Request | None:
        """Waits for the next request: the oldest of the device whose turn it is.

        Returns:
            The request, or None once the queue is closed.
        """
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            device, own = self._waiting.popitem(last=False)
            sha256, correlation = own.popitem(last=False)
            if own:
                self._waiting[device] = own  # behind all others
            return Request(device, sha256, correlation)

    def close(self) -> None:
        """Ends every `get`; what waits is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
