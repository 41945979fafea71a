"""A broker in memory that loses, doubles, delays and forges messages, goes away and forgets.

And a host behind it that answers want-lists, lies or stays silent. What happens is drawn from a
seed, so a failure can be run again.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab_agent.contract import topics
from trimtab_agent.contract.wants import MISSING, decode_want
from trimtab_agent.errors import BrokerError


@dataclass(frozen=True)
class Faults:
    """Shares of messages, from 0 to 1, that something happens to."""

    lost: float = 0.0
    doubled: float = 0.0
    delayed: float = 0.0
    forged: float = 0.0
    cut: float = 0.0
    """The connection breaks with this message."""
    wiped_after: int | None = None
    """Messages after which the broker has forgotten what it retained."""
    host: str = "honest"
    """`honest`, `silent`, `denies` (first, then honest), `lies` (half of the time), `absent`."""


class FlakyBroker:
    """What `transfer.Connection` asks for. Delivers within the caller's own calls.

    Attributes:
        requested: Every chunk that was asked for, in order, again and again.
        most_open: Most retained topics that were open at a time.
    """

    max_payload_bytes: int | None = None
    retains = True
    silent_s: float | None = None

    def __init__(self, wire: Mapping[str, bytes], faults: Faults, seed: int) -> None:
        self._wire = dict(wire)
        self._retained = dict(wire)
        self._faults = faults
        self._random = random.Random(seed)
        self._handlers: dict[str, object] = {}
        self._held_back: list[tuple[str, bytes, dict[str, str]]] = []
        self._down_for = 0
        self._denied: set[str] = set()
        self.connections = 1
        self.requested: list[str] = []
        self.delivered = 0
        self.most_open = 0

    @property
    def open(self) -> set[str]:
        return set(self._handlers)

    @property
    def connected(self) -> bool:
        """Asking is what time passes by, while it is down."""
        if self._down_for:
            self._down_for -= 1
            if not self._down_for:
                self.connections += 1
                self._retain([*self._handlers])
        return not self._down_for

    def subscribe_many(self, names: Sequence[str], handler) -> None:
        self._handlers.update(dict.fromkeys(names, handler))
        blobs = [name for name in self._handlers if "/blob/" in name]
        self.most_open = max(self.most_open, len(blobs))
        self.requested += [name.rpartition("/")[2] for name in names if "/blob/" in name]
        if not self._down_for:
            self._retain(names)

    def unsubscribe(self, *names: str) -> None:
        for name in names:
            self._handlers.pop(name, None)

    def publish(self, topic, payload, *, response_topic=None, correlation=None) -> None:
        if self._down_for:
            raise BrokerError("not sent")
        names = decode_want(payload, what=topic)
        self.requested += names
        assert response_topic == topics.block(topics.device_of(topic))
        assert len(correlation) == 8
        for name in names:
            self._answer(response_topic, name)

    def broadcast(self, group: str) -> None:
        """Sends all chunks to a group."""
        for wire in self._wire.values():
            self._deliver(topics.group_chunk(group), wire, {})

    def _answer(self, topic: str, name: str) -> None:
        host = self._faults.host
        if host == "lies" and self._random.random() < 0.5:
            self._deliver(topic, b"a lie", {})
        elif host == "absent" or (host == "denies" and name not in self._denied):
            self._denied.add(name)
            self._deliver(topic, b"", {MISSING: name})
        elif host != "silent":
            self._deliver(topic, self._wire[name], {})

    def _retain(self, names: Sequence[str]) -> None:
        for name in names:
            sha256 = name.rpartition("/")[2]
            if sha256 in self._retained:
                self._deliver(name, self._retained[sha256], {})

    def _deliver(self, topic: str, payload: bytes, properties: dict[str, str]) -> None:
        if self._down_for:
            return
        self.delivered += 1
        if self.delivered == self._faults.wiped_after:
            self._retained.clear()
        if self._happens(self._faults.cut):
            self._down_for = self._random.randint(1, 6)
            self._held_back.clear()
            return
        if self._happens(self._faults.lost):
            return
        if self._happens(self._faults.forged):
            payload = hashlib.sha512(payload).digest() + payload[64:]
        messages = [(topic, payload, properties)] * (
            2 if self._happens(self._faults.doubled) else 1
        )
        if self._happens(self._faults.delayed):
            self._held_back += messages
            return
        for message in [*messages, *self._held_back]:
            handler = self._handlers.get(message[0])
            if handler:
                handler(*message)
        self._held_back.clear()

    def _happens(self, share: float) -> bool:
        return self._random.random() < share
