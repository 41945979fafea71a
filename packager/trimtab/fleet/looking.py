"""Looking at what a broker retains, many topics at a time, without waiting for what is not there.

MQTT does not say that a topic has no retained message. But a broker answers one client in order:
it takes a subscription, sends what is retained there, and then takes the next packet. So a message
to ourselves, published behind the subscriptions, comes back behind their messages: what has not
come by then is not there.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import threading
from collections.abc import Sequence
from typing import NamedTuple

from trimtab_agent.contract import topics
from trimtab_agent.errors import TransferTimeoutError
from trimtab_agent.link import Link

FENCE = topics.document("audit-fence", 0)
"""Where the message to ourselves goes; it is not retained."""

SETTLE_S = 0.3
"""Longest wait behind the fence for a broker that keeps no order, until it has shown that it does.
What is then missed by mistake is published once more, which changes nothing."""

_TRUST_AFTER = 3


class Found(NamedTuple):
    """A retained message: the SHA-256 of its payload, and its user properties."""

    sha256: str
    properties: dict[str, str]


class Looking:
    """Looks over a link. Use it as a context manager; for one thread.

    Args:
        link: The connection.
        timeout_s: Longest wait for the fence.
    """

    def __init__(self, link: Link, *, timeout_s: float) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._found: dict[str, Found] = {}
        self._fence = b""
        self._back = False
        self._numbers = itertools.count()
        self._in_vain = 0
        # Another host may be looking at the same time.
        self._own = secrets.token_hex(8)

    def __enter__(self) -> Looking:
        self._link.subscribe(FENCE, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._link.unsubscribe(FENCE)

    def look(self, names: Sequence[str]) -> dict[str, Found]:
        """Returns the retained messages of some topics; of those that are not there, nothing.

        Args:
            names: Topics without wildcards. All of their messages may be under way at once, so
                few: brokers drop what exceeds a client's queue.

        Raises:
            BrokerError: There is no connection.
            TransferTimeoutError: The connection broke, or the broker does not answer.
        """
        with self._changed:
            self._found, self._back = {}, False
            self._fence = f"{self._own} {next(self._numbers)}".encode()
        try:
            self._link.subscribe_many(names, self._receive)
            self._link.publish(FENCE, self._fence)
            with self._changed:
                if not self._changed.wait_for(lambda: self._back, self._timeout_s):
                    raise TransferTimeoutError(
                        f"the broker sent nothing back within {self._timeout_s:g} s"
                    )
                self._settle(len(names))
                return self._found
        finally:
            self._link.unsubscribe(*names)

    def _settle(self, count: int) -> None:
        """Waits a little for what may come behind the fence."""
        before = len(self._found)
        if before == count or self._in_vain >= _TRUST_AFTER:
            return
        self._changed.wait_for(lambda: len(self._found) == count, SETTLE_S)
        self._in_vain = self._in_vain + 1 if len(self._found) == before else 0

    def _receive(self, topic: str, payload: bytes, properties: dict[str, str]) -> None:
        """Runs on the link's thread."""
        with self._changed:
            if topic != FENCE:
                self._found[topic] = Found(hashlib.sha256(payload).hexdigest(), properties)
            elif payload == self._fence:
                self._back = True
            self._changed.notify_all()
