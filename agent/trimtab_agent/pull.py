"""Fetching the chunks that this device lacks. Each is kept at once, so a transfer resumes there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import verify_chunk
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.contract.messages import Transfer
from trimtab_agent.window import WINDOW, Subscriber, fetch_retained


class Cache(Protocol):
    """Where chunks are kept; `trimtab_agent.chunk_cache.ChunkCache` is one."""

    def has(self, chunk: Chunk) -> bool:
        """Says whether the chunk is there and whole."""

    def put(self, chunk: Chunk, wire: bytes) -> None:
        """Keeps a chunk whose hash has been checked."""


def pull(
    link: Subscriber,
    chunks: Iterable[Chunk],
    cache: Cache,
    *,
    window: int = WINDOW,
    timeout_s: float,
) -> Transfer:
    """Fetches the chunks that are not in the cache.

    Args:
        link: The connection.
        chunks: What is needed; the same hash may come more than once.
        cache: Where they go. Everything that came before an error stays there.
        window: Chunks to ask for at once.
        timeout_s: Longest silence before a chunk counts as missing.

    Raises:
        TransferTimeoutError: Nothing came for `timeout_s`.
        IntegrityError: A chunk has other bytes than the manifest says; it is not kept.
        StorageError: The disk is full or refuses.
    """
    start = time.monotonic()
    distinct = {chunk.sha256: chunk for chunk in chunks}
    lacking = {
        topics.blob(sha256): chunk for sha256, chunk in distinct.items() if not cache.has(chunk)
    }
    for topic, wire, _ in fetch_retained(link, lacking, window=window, timeout_s=timeout_s):
        verify_chunk(lacking[topic], wire)
        cache.put(lacking[topic], wire)
    return Transfer(
        chunks=len(distinct),
        chunks_reused=len(distinct) - len(lacking),
        wire_bytes=sum(chunk.wire_bytes for chunk in lacking.values()),
        duration_s=time.monotonic() - start,
    )
