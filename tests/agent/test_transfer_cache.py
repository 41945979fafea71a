"""Chunks in packs: what is there after tears, holes, full disks and clearing up."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.chunk_packs import damage, packed
from support.scratch import make_scratch
from trimtab_agent import chunk_cache
from trimtab_agent.chunk_cache import ChunkCache
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.errors import IntegrityError, StorageError


def content(number, size=1000):
    wire = hashlib.shake_128(b"%d" % number).digest(size)
    return Chunk(sha256=hashlib.sha256(wire).hexdigest(), wire_bytes=size), wire


ITEMS = [content(number, size=200 + 37 * number) for number in range(8)]


def fill(directory, items=ITEMS):
    cache = ChunkCache(directory)
    for chunk, wire in items:
        cache.put(chunk, wire)
    return cache


def test_what_was_put_is_read_also_by_the_next_process(tmp_path):
    cache = fill(tmp_path)
    for reader in (cache, ChunkCache(tmp_path)):
        assert all(reader.has(chunk) and reader.read(chunk) == wire for chunk, wire in ITEMS)
    assert len(list(tmp_path.iterdir())) == 1
    stranger, _ = content(99)
    assert not cache.has(stranger)
    with pytest.raises(FileNotFoundError):
        cache.read(stranger)


@settings(max_examples=25)
@given(st.data())
def test_any_tear_or_hole_costs_chunks_and_never_brings_a_wrong_one(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("cache")
    fill(directory)
    (pack,) = directory.iterdir()
    whole = bytearray(pack.read_bytes())
    torn = whole[: data.draw(st.integers(0, len(whole)), "length")]
    if torn:
        start = data.draw(st.integers(0, len(torn) - 1), "hole")
        torn[start : start + 512] = bytes(len(torn[start : start + 512]))
    pack.write_bytes(torn)
    cache = ChunkCache(directory)
    for chunk, wire in ITEMS:
        assert not cache.has(chunk) or cache.read(chunk) == wire
    for chunk, wire in ITEMS:  # what lacks can be put again
        if not cache.has(chunk):
            cache.put(chunk, wire)
    assert {c.sha256: ChunkCache(directory).read(c) for c, _ in ITEMS} == {
        c.sha256: wire for c, wire in ITEMS
    }


@settings(max_examples=30)
@given(st.binary(max_size=300))
def test_any_file_in_its_place_is_read_without_an_error(tmp_path_factory, rubbish):
    directory = tmp_path_factory.mktemp("cache")
    (directory / "00000001.pack").write_bytes(rubbish)
    (directory / "notes.txt").write_bytes(rubbish)
    assert not ChunkCache(directory).has(ITEMS[0][0])


def test_a_chunk_that_rots_after_it_was_checked_is_found_out_when_read(tmp_path):
    cache = fill(tmp_path)
    chunk, wire = ITEMS[3]
    assert cache.has(chunk)
    damage(tmp_path, chunk.sha256)
    with pytest.raises(IntegrityError):
        cache.read(chunk)
    assert not cache.has(chunk)
    cache.put(chunk, wire)
    assert ChunkCache(tmp_path).read(chunk) == wire


def test_a_full_disk_leaves_what_was_there(tmp_path):
    cache = fill(tmp_path, ITEMS[:4])
    (pack,) = tmp_path.iterdir()
    size = pack.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
    try:
        with pytest.raises(StorageError, match="writing chunk"):
            cache.put(*ITEMS[4])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert pack.stat().st_size == size
    cache.put(*ITEMS[4])
    assert set(packed(tmp_path)) == {chunk.sha256 for chunk, _ in ITEMS[:5]}


def test_packs_are_bounded_and_go_with_their_last_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_cache, "PACK_BYTES", 500)
    cache = fill(tmp_path)
    assert len(list(tmp_path.iterdir())) > 3
    cache.keep_only({ITEMS[-1][0].sha256})
    assert set(packed(tmp_path)) == {ITEMS[-1][0].sha256}
    assert len(list(tmp_path.iterdir())) == 1
    cache.keep_only(set())
    assert list(tmp_path.iterdir()) == []
    assert not cache.has(ITEMS[-1][0])


def test_a_pack_of_little_use_is_written_anew_and_one_of_much_use_stays(tmp_path):
    cache = fill(tmp_path)
    (pack,) = tmp_path.iterdir()
    wanted = {chunk.sha256 for chunk, _ in ITEMS[1:]}
    cache.keep_only(wanted)
    assert list(tmp_path.iterdir()) == [pack]
    cache.keep_only({chunk.sha256 for chunk, _ in ITEMS[5:]})
    assert pack not in set(tmp_path.iterdir())
    assert packed(tmp_path) == {chunk.sha256: wire for chunk, wire in ITEMS[5:]}
    assert cache.read(ITEMS[6][0]) == ITEMS[6][1]


def test_a_disk_without_room_for_the_copy_keeps_the_pack(tmp_path):
    cache = fill(tmp_path)
    (pack,) = tmp_path.iterdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        cache.keep_only({chunk.sha256 for chunk, _ in ITEMS[5:]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [pack]
    assert cache.read(ITEMS[5][0]) == ITEMS[5][1]


def test_a_chunk_is_read_once_to_know_that_it_is_there(tmp_path, monkeypatch):
    fill(tmp_path)
    reads = []
    real = os.pread

    def pread(descriptor, size, offset):
        reads.append(size)
        return real(descriptor, size, offset)

    monkeypatch.setattr(chunk_cache.os, "pread", pread)
    cache = ChunkCache(tmp_path)
    for _ in range(5):
        assert all(cache.has(chunk) for chunk, _ in ITEMS)
    assert sum(reads) == sum(len(wire) + 40 for _, wire in ITEMS)


class AnyUse(RuleBasedStateMachine):
    """A cache that is written, torn, cleared and opened again, beside a dict."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(chunk_cache, "PACK_BYTES", 1500)
        self.directory = make_scratch()
        self.cache = ChunkCache(self.directory)
        self.sure: dict[str, bytes] = {}
        self.unsure: set[str] = set()  # torn, rotten, or not wanted: may be there, may be gone

    def teardown(self):
        self.cache.close()
        self.patch.undo()
        shutil.rmtree(self.directory)

    @rule(item=st.sampled_from(ITEMS))
    def put(self, item):
        chunk, wire = item
        self.cache.put(chunk, wire)
        self.sure[chunk.sha256] = wire
        self.unsure.discard(chunk.sha256)

    @rule(wanted=st.sets(st.sampled_from([chunk.sha256 for chunk, _ in ITEMS])))
    def keep_only(self, wanted):
        self.cache.keep_only(wanted)
        self.unsure |= self.sure.keys() - wanted
        self.sure = {sha256: wire for sha256, wire in self.sure.items() if sha256 in wanted}

    @rule()
    def reopen(self):
        self.cache.close()
        self.cache = ChunkCache(self.directory)

    @precondition(lambda self: list(self.directory.glob("*.pack")))
    @rule(cut_bytes=st.integers(1, 2000))
    def power_cut(self, cut_bytes):
        """The end of the newest pack never came to the disk."""
        self.cache.close()
        newest = max(self.directory.glob("*.pack"))
        content = newest.read_bytes()
        lost = {sha256 for sha256, _ in chunk_cache.scan(newest)}
        newest.write_bytes(content[: max(len(content) - cut_bytes, 0)])
        self._doubt(lost)
        self.cache = ChunkCache(self.directory)

    @precondition(lambda self: packed(self.directory))
    @rule(number=st.integers(0, 20))
    def rot(self, number):
        names = sorted(packed(self.directory))
        name = names[number % len(names)]
        damage(self.directory, name)
        self._doubt({name})
        self.reopen()

    def _doubt(self, names):
        self.unsure |= names & self.sure.keys()
        self.sure = {name: wire for name, wire in self.sure.items() if name not in names}

    @invariant()
    def as_the_model_says(self):
        for chunk, wire in ITEMS:
            name = chunk.sha256
            if self.cache.has(chunk):
                assert self.cache.read(chunk) == wire
                assert name in self.sure or name in self.unsure
            else:
                assert name not in self.sure


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=False
)
