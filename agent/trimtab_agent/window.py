"""Asking a broker for retained messages, a few topics at a time.

A subscription to a retained topic is the request, the message is the answer. The number of open
subscriptions is the only flow control that every broker honours: Mosquitto silently drops what
exceeds its queue of 1,000, and cloud brokers take 8 filters a request and 50 subscriptions in all.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from trimtab_agent.errors import TransferTimeoutError

Handler = Callable[[str, bytes, dict[str, str]], None]
"""Called with topic, payload and MQTT 5 user properties."""

WINDOW = 8
"""Topics asked for at once: 8 filters are the most that AWS IoT takes in one SUBSCRIBE."""


class Subscriber(Protocol):
    """The part of a connection that asking needs; `trimtab_agent.link.Link` is one."""

    def subscribe_many(self, topics: Sequence[str], handler: Handler) -> None:
        """Subscribes to `topics`; `handler` runs on a thread that is not the caller's."""

    def unsubscribe(self, *topics: str) -> None:
        """Ends the subscriptions to `topics`."""


class Message(NamedTuple):
    """A message as it came; `properties` are its MQTT 5 user properties."""

    topic: str
    payload: bytes
    properties: dict[str, str]


def fetch_retained(
    link: Subscriber, topics: Iterable[str], *, window: int = WINDOW, timeout_s: float
) -> Iterator[Message]:
    """Yields the retained message of each topic, in the order in which they come.

    Args:
        link: The connection.
        topics: Distinct topics without wildcards.
        window: Topics to have open at once.
        timeout_s: Longest silence. It counts from the last message, so a slow line is not
            mistaken for a missing message, and all that is there is fetched before the wait
            for what is not.

    Raises:
        TransferTimeoutError: Nothing came for `timeout_s`; names the first topic still open.
    """
    waiting = iter(topics)
    open_topics: dict[str, None] = {}
    # Room for what a reconnection may bring twice. When it is full something is flooding the
    # topic: what is dropped here is what nobody asked for.
    inbox: queue.Queue[Message] = queue.Queue(4 * window)

    def receive(topic: str, payload: bytes, properties: dict[str, str]) -> None:
        with contextlib.suppress(queue.Full):
            inbox.put_nowait(Message(topic, payload, properties))

    def refill() -> None:
        wanted = list(itertools.islice(waiting, window - len(open_topics)))
        open_topics.update(dict.fromkeys(wanted))
        if wanted:
            link.subscribe_many(wanted, receive)

    try:
        refill()
        while open_topics:
            message = _next(inbox, open_topics, timeout_s)
            if message.topic in open_topics:
                del open_topics[message.topic]
                link.unsubscribe(message.topic)
                yield message
                refill()
    finally:
        if open_topics:
            link.unsubscribe(*open_topics)


def _next(inbox: queue.Queue[Message], open_topics: dict[str, None], timeout_s: float) -> Message:
    """Waits for one message."""
    try:
        return inbox.get(timeout=timeout_s)
    except queue.Empty as error:
        first = next(iter(open_topics))
        others = f" and {len(open_topics) - 1} others" if len(open_topics) > 1 else ""
        raise TransferTimeoutError(
            f"nothing came at {first}{others} within {timeout_s:g} s: is it published?"
        ) from error
