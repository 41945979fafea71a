"""Fetching the chunks that this device lacks. Each is kept at once, so a transfer resumes there.

A package comes by several ways in turn, such as a folder, the broker's retained messages, and the
host's answers. What one did not bring, or brought with wrong bytes, the next is asked for. No way
is trusted: this is the one place where chunks are checked, and nothing else gets into the cache.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from trimtab_agent.contract.chunks import verify_chunk
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.contract.messages import Transfer
from trimtab_agent.errors import IntegrityError, InterruptedUpdateError, NetworkError
from trimtab_agent.sources import Chunks

_log = logging.getLogger(__name__)


class Cache(Protocol):
    """Where chunks are kept; `trimtab_agent.chunk_cache.ChunkCache` is one."""

    def has(self, chunk: Chunk) -> bool:
        """Says whether the chunk is there and whole."""

    def put(self, chunk: Chunk, wire: bytes) -> None:
        """Keeps a chunk whose hash has been checked."""


def pull(
    ways: Mapping[str, Chunks],
    chunks: Iterable[Chunk],
    cache: Cache,
    *,
    stop: Callable[[], bool],
) -> Transfer:
    """Fetches the chunks that are not in the cache.

    Args:
        ways: Where they come from, by the name that the report has; tried in this order.
        chunks: What is needed; the same hash may come more than once.
        cache: Where they go. Everything that came before an error stays there.
        stop: Asked at least once a second; once it says True the transfer ends.

    Raises:
        NetworkError: Some did not come; from the last way.
        IntegrityError: Some have other bytes than the manifest says by every way.
        InterruptedUpdateError: `stop` said True before all were there.
        StorageError: The disk is full or refuses.
    """
    transfer = _Transfer(chunks, cache)
    failure: NetworkError | None = None
    for name, source in ways.items():
        if not transfer.lacking or stop():
            break
        try:
            failure = None
            transfer.take(name, source.fetch(list(transfer.lacking.values()), stop=stop))
        except NetworkError as error:
            failure = error
            _log.info("%d chunks did not come %s: %s", len(transfer.lacking), name, error)
    if transfer.lacking:
        if stop():
            raise InterruptedUpdateError(f"left off with {len(transfer.lacking)} chunks to fetch")
        raise failure or transfer.complaint()
    return transfer.result()


class _Transfer:
    """What lacks, and what has come by which way."""

    def __init__(self, chunks: Iterable[Chunk], cache: Cache) -> None:
        self._start = time.monotonic()
        self._cache = cache
        self.lacking = {chunk.sha256: chunk for chunk in chunks}
        self._chunks = len(self.lacking)
        for chunk in [chunk for chunk in self.lacking.values() if cache.has(chunk)]:
            del self.lacking[chunk.sha256]
        self._reused = self._chunks - len(self.lacking)
        self._wire_bytes = 0
        self._by_way: dict[str, int] = {}
        self._rejected = 0
        self._wrong: IntegrityError | None = None

    def take(self, way: str, arrivals: Iterable[tuple[Chunk, bytes]]) -> None:
        """Stores what comes and has the right hash."""
        for chunk, wire in arrivals:
            if chunk.sha256 not in self.lacking:
                continue
            try:
                verify_chunk(chunk, wire)
            except IntegrityError as error:
                _log.warning("%s: %s", way, error)
                self._rejected += 1
                self._wrong = error
                continue
            self._cache.put(chunk, wire)
            del self.lacking[chunk.sha256]
            self._wire_bytes += len(wire)
            self._by_way[way] = self._by_way.get(way, 0) + 1

    def complaint(self) -> IntegrityError:
        """Returns the error for what lacks although every way has been gone to its end."""
        first = next(iter(self.lacking.values()))
        return self._wrong or IntegrityError(f"chunk {first.sha256[:12]} was not brought")

    def result(self) -> Transfer:
        """Returns the figures."""
        return Transfer(
            chunks=self._chunks,
            chunks_reused=self._reused,
            wire_bytes=self._wire_bytes,
            duration_s=time.monotonic() - self._start,
            by_way=self._by_way,
            rejected=self._rejected,
        )
