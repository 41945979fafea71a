"""Chunks by several ways in turn: what gets into the cache, and how it ends."""

from __future__ import annotations

import os

import pytest

from support.manifests import small_package
from trimtab_agent.contract.chunks import distinct_chunks
from trimtab_agent.errors import (
    IntegrityError,
    InterruptedUpdateError,
    StorageError,
    TransferTimeoutError,
)
from trimtab_agent.pull import pull
from trimtab_agent.store import Store


@pytest.fixture
def cache(tmp_path):
    return Store(tmp_path / "packages").chunks


@pytest.fixture(scope="module")
def package():
    return small_package(model=os.urandom(80_000))  # 21 chunks with the golden samples


@pytest.fixture
def chunks(package):
    return distinct_chunks(package.manifest.files)


def never():
    return False


class Shelf:
    """A source with some of the chunks, which may lie."""

    def __init__(self, wire):
        self.wire = dict(wire)
        self.asked = []

    def fetch(self, chunks, *, stop):
        missing = []
        for chunk in chunks:
            if stop():
                return
            self.asked.append(chunk.sha256)
            if chunk.sha256 in self.wire:
                yield chunk, self.wire[chunk.sha256]
            else:
                missing.append(chunk.sha256)
        if missing:
            raise TransferTimeoutError(f"no {missing[0]}")


def test_everything_is_fetched_once(cache, package, chunks):
    source = Shelf(package.wire)
    first = pull({"folder": source}, chunks + chunks[:3], cache, stop=never)
    assert (first.chunks, first.chunks_reused) == (len(chunks), 0)
    assert first.wire_bytes == sum(map(len, package.wire.values()))
    assert (first.by_way, first.rejected) == ({"folder": len(chunks)}, 0)
    assert {chunk.sha256: cache.read(chunk) for chunk in chunks} == package.wire
    again = pull({"folder": source}, chunks, cache, stop=never)
    assert (again.chunks_reused, again.wire_bytes, again.by_way) == (len(chunks), 0, {})
    assert len(source.asked) == len(chunks)


def test_what_one_way_lacks_or_has_wrong_comes_by_the_next(cache, package, chunks):
    names = [chunk.sha256 for chunk in chunks]
    stick = Shelf({name: package.wire[name] for name in names[:10]})
    stick.wire[names[4]] = bytes(chunks[4].wire_bytes)  # as long as it should be
    stick.wire[names[5]] = package.wire[names[5]] + b"!"
    broker = Shelf(package.wire)
    transfer = pull({"folder": stick, "retained": broker}, chunks, cache, stop=never)
    assert broker.asked == [*names[4:6], *names[10:]]
    assert transfer.by_way == {"folder": 8, "retained": len(chunks) - 8}
    assert transfer.rejected == 2
    assert {chunk.sha256: cache.read(chunk) for chunk in chunks} == package.wire


def test_what_comes_by_no_way_is_the_last_ways_error(cache, package, chunks):
    name = chunks[3].sha256
    wire = {key: value for key, value in package.wire.items() if key != name}
    with pytest.raises(TransferTimeoutError, match=f"no {name}"):
        pull({"a": Shelf({}), "b": Shelf(wire)}, chunks, cache, stop=never)
    assert [chunk for chunk in chunks if not cache.has(chunk)] == [chunks[3]]


def test_wrong_bytes_by_every_way_are_named_and_not_kept(cache, package, chunks):
    wrong = chunks[5]
    source = Shelf({**package.wire, wrong.sha256: bytes(wrong.wire_bytes)})
    with pytest.raises(IntegrityError, match=f"chunk {wrong.sha256[:12]} has the SHA-256"):
        pull({"a": source, "b": source}, chunks, cache, stop=never)
    assert [chunk for chunk in chunks if not cache.has(chunk)] == [wrong]


def test_a_source_that_ends_early_or_brings_strange_things_is_no_success(cache, package, chunks):
    other = small_package(model=b"another")
    stranger = distinct_chunks(other.manifest.files)[0]

    class Odd:
        def fetch(self, chunks, *, stop):
            yield stranger, other.wire[stranger.sha256]

    with pytest.raises(IntegrityError, match="was not brought"):
        pull({"odd": Odd()}, chunks, cache, stop=never)
    assert not cache.has(stranger)


def test_stop_ends_it_and_keeps_what_came(cache, package, chunks):
    def stop():
        return len(source.asked) >= 7

    source = Shelf(package.wire)
    with pytest.raises(InterruptedUpdateError, match="14 chunks"):
        pull({"a": source, "b": source}, chunks, cache, stop=stop)
    assert [cache.has(chunk) for chunk in chunks] == [True] * 7 + [False] * 14
    again = pull({"a": Shelf(package.wire)}, chunks, cache, stop=never)
    assert (again.chunks_reused, again.by_way) == (7, {"a": 14})


def test_a_disk_that_fills_in_the_middle_ends_it_and_loses_nothing(cache, package, chunks):
    ended = []

    class Ends(Shelf):
        def fetch(self, chunks, *, stop):
            try:
                yield from super().fetch(chunks, stop=stop)
            finally:
                ended.append(True)

    class SmallDisk:
        room = 5

        def has(self, chunk):
            return cache.has(chunk)

        def put(self, chunk, wire):
            if not self.room:
                raise StorageError("no room")
            self.room -= 1
            cache.put(chunk, wire)

    with pytest.raises(StorageError, match="no room"):
        pull({"a": Ends(package.wire), "b": Shelf(package.wire)}, chunks, SmallDisk(), stop=never)
    assert ended == [True]
    assert sum(cache.has(chunk) for chunk in chunks) == 5
    assert pull({"a": Shelf(package.wire)}, chunks, cache, stop=never).chunks_reused == 5
