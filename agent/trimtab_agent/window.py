"""Asking a broker for retained messages, a few topics at a time.

A subscription to a retained topic is the request, the message is the answer. The number of open
subscriptions is the only flow control that every broker honours: Mosquitto silently drops what
exceeds its queue of 1,000, and cloud brokers take 8 filters a request and 50 subscriptions in all.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from trimtab_agent.errors import TransferTimeoutError

Handler = Callable[[str, bytes, dict[str, str]], None]
"""Called with topic, payload and MQTT 5 properties (see `Link.subscribe_many`)."""

FILTERS = 8
"""Topics in one request: the most that AWS IoT takes in one SUBSCRIBE."""

WINDOW = 2 * FILTERS
"""Topics open at once: one request is answered while what the one before brought is stored."""

OVERTAKEN = 2 * WINDOW
"""A topic that was passed over by so many that were asked for after it will not come. Brokers
answer in the order of the subscriptions, those of several machines roughly so."""


HELD_BACK_S = 0.02
"""Taking something that took longer was held back, by a cap on the bandwidth."""

T = TypeVar("T")


class Waiting(Iterator[T]):
    """What is still to be asked for.

    Args:
        items: All of it.

    Attributes:
        held_back: Whether the last was held back. Then it is asked for alone: what a cap lets
            through one by one should not wait for company.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self.held_back = False

    def __next__(self) -> T:
        start = time.monotonic()
        item = next(self._items)
        self.held_back = time.monotonic() - start > HELD_BACK_S
        return item


class Subscriber(Protocol):
    """The part of a connection that asking needs; `trimtab_agent.link.Link` is one."""

    def subscribe_many(self, topics: Sequence[str], handler: Handler) -> None:
        """Subscribes to `topics`; `handler` runs on a thread that is not the caller's."""

    def unsubscribe(self, *topics: str) -> None:
        """Ends the subscriptions to `topics`."""


class Message(NamedTuple):
    """A message as it came; `properties` are those of MQTT 5."""

    topic: str
    payload: bytes
    properties: dict[str, str]


class Inbox:
    """A `Handler` that takes messages in on a link's thread, for the caller's to take them out.

    It never blocks, so a link calls it on its network thread: another thread in between costs
    more than all else that is done with a chunk.

    Args:
        length: Messages that may wait. What is beyond is dropped: by the window nobody asked for
            more, so somebody floods the topic.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()  # the fast one
        self.waited_s = 0.0
        """How long the last `take` waited."""

    def __call__(self, topic: str, payload: bytes, properties: dict[str, str]) -> None:
        """Takes a message in."""
        if self._messages.qsize() < self._length:
            self._messages.put(Message(topic, payload, properties))

    def take(self, timeout_s: float) -> Message | None:
        """Returns the next message, or None if none comes in time."""
        start = time.monotonic()
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None
        finally:
            self.waited_s = time.monotonic() - start


class Window:
    """The topics that are open at a time. Use it as a context manager: it closes what is open.

    Args:
        link: The connection.
        topics: Distinct topics without wildcards; the next are taken when there is room.
        size: Topics to have open at once.
    """

    def __init__(self, link: Subscriber, topics: Iterable[str], *, size: int = WINDOW) -> None:
        self._link = link
        self._waiting = Waiting(topics)
        self._size = size
        self._open: dict[str, int] = {}
        """In the order of their requests; each with how many later ones came before it."""
        self._closed: list[str] = []
        """Not open any more, and subscribed to until the next request."""
        # Room for what a reconnection may bring twice.
        self._inbox = Inbox(4 * size)

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self._close(list(self._open))
        self._unsubscribe()

    @property
    def open(self) -> list[str]:
        """The topics that were asked for and did not come yet, first asked first."""
        return list(self._open)

    @property
    def waited_s(self) -> float:
        """How long the last `take` waited."""
        return self._inbox.waited_s

    def refill(self) -> bool:
        """Asks for more when half of the window is free; says whether anything is open then.

        A request for each would cost more packets than there are chunks.
        """
        if len(self._open) <= self._size // 2:
            wanted = self._next_topics(self._size - len(self._open))
            self._open.update(dict.fromkeys(wanted, 0))
            self._unsubscribe()
            if wanted:
                self._link.subscribe_many(wanted, self._inbox)
        return bool(self._open)

    def _next_topics(self, most: int) -> list[str]:
        topics: list[str] = []
        for topic in itertools.islice(self._waiting, most):
            topics.append(topic)
            if self._waiting.held_back:
                break
        return topics

    def take(self, timeout_s: float) -> Message | None:
        """Returns the next message of an open topic and closes that; None: none came."""
        message = self._inbox.take(timeout_s)
        if message is None or message.topic not in self._open:
            return None
        for topic in itertools.takewhile(lambda topic: topic != message.topic, self._open):
            self._open[topic] += 1
        self._close([message.topic])
        return message

    def drop_overtaken(self) -> list[str]:
        """Closes the topics that will not come, because many later ones have; returns them."""
        late = [topic for topic, overtakers in self._open.items() if overtakers >= OVERTAKEN]
        self._close(late)
        return late

    def _close(self, topics: Sequence[str]) -> None:
        for topic in topics:
            del self._open[topic]
        self._closed += topics

    def _unsubscribe(self) -> None:
        if self._closed:
            self._link.unsubscribe(*self._closed)
        self._closed = []


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
    silent_s = 0.0
    with Window(link, topics, size=window) as asked:
        while asked.refill():
            message = asked.take(timeout_s - silent_s)
            if message:
                silent_s = 0.0
                yield message
            else:
                silent_s += asked.waited_s
            if silent_s >= timeout_s:
                raise TransferTimeoutError(
                    f"nothing came at {_name(asked.open)} within {timeout_s:g} s: is it published?"
                )


def _name(topics: Sequence[str]) -> str:
    """Returns the first topic and the number of the others."""
    others = f" and {len(topics) - 1} others" if len(topics) > 1 else ""
    return f"{topics[0]}{others}"
