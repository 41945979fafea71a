"""Chunks that the device asks the host for, by want-list (`contract.wants`).

This needs a host that is there, and costs it and the broker more than a retained message. It is for
what the broker does not have: it lost its store, it keeps no retained messages, or somebody put
wrong bytes there.

An answer is known by its hash alone. It may be late, come twice, or answer an earlier request: all
of that is welcome. That the host says `missing` is not final: another worker may have the chunk,
or this one a moment later. So such a chunk is asked for again like one that did not come.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from trimtab_agent.backoff import Patience, full_jitter_s
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.contract.wants import (
    CORRELATION_BYTES,
    DIGEST_BYTES,
    MAX_WANTED,
    MISSING,
    encode_want,
)
from trimtab_agent.errors import BrokerError, TransferTimeoutError
from trimtab_agent.retained import TICK_S, Line, is_silent
from trimtab_agent.window import Inbox, Message, Subscriber, Waiting

WINDOW_BYTES = 1024 * 1024
"""Asked for and not there yet: 10 chunks of the usual size, within the 20 messages that brokers
have in flight."""

REQUEST_BYTES = WINDOW_BYTES // 2
"""Asked for in one want-list. With two under way the host never waits for the next."""

MAX_FAILURES = 5
"""Times in a row that all of a window is asked for without a single answer."""

_FIRST_DELAY_S = 1.0
_INBOX_LENGTH = 32


class Connection(Subscriber, Line, Protocol):
    """What asking needs of a connection."""

    @property
    def connections(self) -> int:
        """How many connections there have been. What was under way in one is lost in the next."""

    @property
    def max_payload_bytes(self) -> int | None:
        """Largest payload that the broker takes."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        response_topic: str | None = None,
        correlation: bytes | None = None,
    ) -> None:
        """Publishes, or raises `BrokerError` while there is no connection."""


class Asked:
    """Chunks by want-list (`sources.Chunks`).

    Args:
        link: The connection.
        device: This device's id.
        timeout_s: Longest silence of the host, and longest delay before it is asked again.
    """

    def __init__(self, link: Connection, *, device: str, timeout_s: float) -> None:
        self._link = link
        self._device = device
        self._timeout_s = timeout_s

    def fetch(
        self, chunks: Iterable[Chunk], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, bytes]]:
        """See `sources.Chunks`.

        Raises:
            TransferTimeoutError: The host does not answer, or lacks some.
        """
        patience = Patience(longest_s=self._timeout_s)
        failures = 0
        with _Talk(self._link, self._device, chunks) as talk:
            while not stop() and talk.ask():
                arrival = talk.listen(min(TICK_S, patience.limit_s))
                if arrival:
                    failures = 0
                    patience.came()
                    yield arrival
                elif talk.was_cut:
                    patience.restart()
                    talk.ask_again(in_s=0.0)
                elif is_silent(self._link, talk.waited_s):
                    patience.waited(talk.waited_s)
                else:
                    patience.restart()
                if patience.is_over or talk.all_denied:
                    failures += 1
                    if failures == MAX_FAILURES:
                        raise TransferTimeoutError(talk.complaint())
                    patience.restart()
                    talk.ask_again(in_s=self._delay_s(failures))

    def _delay_s(self, failures: int) -> float:
        return full_jitter_s(failures, first_s=_FIRST_DELAY_S, longest_s=self._timeout_s)


class _Talk:
    """What was asked for and what came of it. A context manager: it listens while it is open."""

    def __init__(self, link: Connection, device: str, chunks: Iterable[Chunk]) -> None:
        self._link = link
        self._device = device
        self._unseen = Waiting(chunks)
        self._lacking: dict[str, Chunk] = {}
        """All that was taken from `chunks` and did not come: queued, under way or denied."""
        self._queue: deque[str] = deque()
        self._under_way: set[str] = set()
        self._denied: set[str] = set()
        self._ask_from = 0.0
        self._connection = link.connections
        self._inbox = Inbox(_INBOX_LENGTH)

    def __enter__(self) -> _Talk:
        self._link.subscribe_many([topics.block(self._device)], self._inbox)
        return self

    def __exit__(self, *_: object) -> None:
        self._link.unsubscribe(topics.block(self._device))

    @property
    def waited_s(self) -> float:
        """How long the last `listen` waited, if something is under way."""
        return self._inbox.waited_s if self._under_way else 0.0

    @property
    def all_denied(self) -> bool:
        """Whether the host has said of all that is left that it lacks it."""
        return bool(self._denied) and self._denied == self._lacking.keys()

    @property
    def was_cut(self) -> bool:
        """Whether there is another connection than the one that the requests were made in."""
        return self._link.connections != self._connection

    def ask(self) -> bool:
        """Sends a want-list if it is time for one; says whether anything lacks."""
        if time.monotonic() >= self._ask_from and self._link.connected:
            batch = self._next_batch()
            if batch:
                self._send(batch)
        return bool(self._lacking)

    def _next_batch(self) -> list[Chunk]:
        """Takes what one want-list may hold from the queue, and from the chunks behind it."""
        room = WINDOW_BYTES - sum(self._lacking[sha].wire_bytes for sha in self._under_way)
        batch: list[Chunk] = []
        if room < REQUEST_BYTES and self._under_way:
            return batch
        most_bytes = self._link.max_payload_bytes or MAX_WANTED * DIGEST_BYTES
        limit = max(1, min(MAX_WANTED, most_bytes // DIGEST_BYTES))
        size_bytes = 0
        while size_bytes < REQUEST_BYTES and len(batch) < limit:
            chunk = self._next_queued() or self._next_unseen()
            if chunk is None:
                break
            batch.append(chunk)
            size_bytes += chunk.wire_bytes
            if self._unseen.held_back:
                break
        return batch

    def _next_queued(self) -> Chunk | None:
        while self._queue:
            queued = self._lacking.get(self._queue.popleft())
            if queued:  # else it has come by now
                return queued
        return None

    def _next_unseen(self) -> Chunk | None:
        fresh = next(self._unseen, None)
        if fresh:
            self._lacking[fresh.sha256] = fresh
        return fresh

    def _send(self, batch: list[Chunk]) -> None:
        names = [chunk.sha256 for chunk in batch]
        try:
            self._link.publish(
                topics.want(self._device),
                encode_want(names),
                response_topic=topics.block(self._device),
                correlation=secrets.token_bytes(CORRELATION_BYTES),
            )
        except BrokerError:  # the connection is lost, and mends itself
            self._queue.extendleft(reversed(names))
        else:
            self._under_way.update(names)

    def listen(self, wait_s: float) -> tuple[Chunk, bytes] | None:
        """Returns the next chunk that lacks, if one comes within `wait_s`."""
        message = self._inbox.take(wait_s)
        return self._recognize(message) if message else None

    def _recognize(self, message: Message) -> tuple[Chunk, bytes] | None:
        denied = message.properties.get(MISSING)
        if denied in self._under_way:
            self._under_way.discard(denied)
            self._denied.add(denied)
            return None
        name = sha256_hex(message.payload)
        chunk = self._lacking.pop(name, None)
        if chunk is None:  # it came before, or these are not the bytes that were asked for
            return None
        self._under_way.discard(name)
        self._denied.discard(name)
        return chunk, message.payload

    def ask_again(self, *, in_s: float) -> None:
        """Has all that lacks asked for anew, from `in_s` on."""
        self._connection = self._link.connections
        self._queue = deque(self._lacking)
        self._under_way.clear()
        self._denied.clear()
        self._ask_from = time.monotonic() + in_s

    def complaint(self) -> str:
        """Says what did not come, and why as far as that is known."""
        first = next(iter(self._lacking))
        others = f" and {len(self._lacking) - 1} others" if len(self._lacking) > 1 else ""
        why = "it says that it lacks them" if self.all_denied else "is `trimtab serve` running?"
        return f"the host did not send chunk {first[:12]}{others}: {why}"
