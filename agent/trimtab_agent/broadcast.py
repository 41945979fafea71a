"""Chunks that the host sends to a whole group at once: one message for a hundred devices.

Nothing here is asked for, so nothing can be relied on: whoever joins late has missed some, and a
broker drops what a slow device does not take in time. What is heard is kept if its hash is one
that lacks; the other ways bring the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.retained import TICK_S
from trimtab_agent.window import Inbox, Subscriber

PATIENCE_S = 3.0
"""Longest wait for the next useful chunk. Longer, and listening costs more than it saves where
nobody sends."""

_INBOX_LENGTH = 16
"""1.5 MB of chunks of the usual size. What comes faster than it is stored is dropped here."""


class Broadcast:
    """Chunks at `group/<name>/chunk` (`sources.Chunks`). Never waits for a connection.

    Args:
        link: The connection.
        group: Whose broadcast.
        timeout_s: Longest silence of the broker.
    """

    def __init__(self, link: Subscriber, group: str, *, timeout_s: float) -> None:
        self._link = link
        self._topic = topics.group_chunk(group)
        self._patience_s = min(PATIENCE_S, timeout_s)

    def fetch(
        self, chunks: Iterable[Chunk], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, bytes]]:
        """See `sources.Chunks`. Ends without an error when nothing useful comes any more."""
        wanted = {chunk.sha256: chunk for chunk in chunks}
        sizes = {chunk.wire_bytes for chunk in wanted.values()}
        inbox = Inbox(_INBOX_LENGTH)
        self._link.subscribe_many([self._topic], inbox)
        try:
            deadline = time.monotonic() + self._patience_s
            while wanted and not stop() and time.monotonic() < deadline:
                message = inbox.take(min(TICK_S, self._patience_s))
                if message is None or len(message.payload) not in sizes:
                    continue
                chunk = wanted.pop(sha256_hex(message.payload), None)
                if chunk:
                    yield chunk, message.payload
                    deadline = time.monotonic() + self._patience_s
        finally:
            self._link.unsubscribe(self._topic)
