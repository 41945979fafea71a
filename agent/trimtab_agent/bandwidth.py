"""A cap on the bytes that are asked for in a second.

A device cannot slow a message down that is on its way. It can wait before it asks for the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.sources import Chunks

BURST_S = 1.0
"""What was not used is saved up for so long."""

TICK_S = 0.25


class TokenBucket:
    """Says how long to wait so that a rate is kept. Its clock is the caller's.

    One number holds it: the time at which all that was taken is paid for (the virtual scheduling
    form of ITU-T I.371's generic cell rate algorithm). In any interval of `t` seconds at most
    `rate * (t + BURST_S)` bytes and one amount more are let through.

    Args:
        bytes_per_s: The rate, above zero.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._paid_at_s = float("-inf")

    def delay_s(self, now_s: float) -> float:
        """Returns how long to wait before anything may be taken."""
        return max(0.0, self._paid_at_s - now_s)

    def take(self, amount_bytes: int, now_s: float) -> None:
        """Takes an amount, which may be larger than what is there: the next then waits longer."""
        start_s = max(self._paid_at_s, now_s - BURST_S)
        self._paid_at_s = start_s + amount_bytes / self._bytes_per_s


class Capped:
    """A source that is asked for no more bytes a second than the bucket gives (`sources.Chunks`).

    Args:
        source: What is asked.
        bucket: Shared by all sources that the cap is for.
    """

    def __init__(self, source: Chunks, bucket: TokenBucket) -> None:
        self._source = source
        self._bucket = bucket

    def fetch(
        self, chunks: Iterable[Chunk], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, bytes]]:
        """See `sources.Chunks`."""
        return self._source.fetch(self._held_back(chunks, stop), stop=stop)

    def _held_back(self, chunks: Iterable[Chunk], stop: Callable[[], bool]) -> Iterator[Chunk]:
        for chunk in chunks:
            while delay_s := self._bucket.delay_s(time.monotonic()):
                if stop():
                    return
                time.sleep(min(delay_s, TICK_S))
            self._bucket.take(chunk.wire_bytes, time.monotonic())
            yield chunk
