"""Transfer of chunks over a real broker and over one in memory."""

from __future__ import annotations

import os
import socket

import pytest

from support import agent_brokers as brokers
from support.manifests import small_package
from support.tuf_simulator import RetainedBroker
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import distinct_chunks
from trimtab_agent.errors import IntegrityError, StorageError, TransferTimeoutError
from trimtab_agent.link import Link
from trimtab_agent.pull import pull
from trimtab_agent.store import Store


@pytest.fixture
def cache(tmp_path):
    return Store(tmp_path / "packages").chunks


@pytest.fixture
def package():
    return small_package(model=os.urandom(200_000))  # 49 chunks


@pytest.fixture(params=brokers.KINDS, scope="module")
def link(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("broker")
    with brokers.broker(request.param, directory) as address, Link(address, "puller") as link:
        link.connect(5)
        yield link


def publish(link, package):
    for sha256, wire in package.wire.items():
        link.publish(topics.blob(sha256), wire, retain=True, wait_s=5)


def chunks_of(package):
    return distinct_chunks(package.manifest.files)


def test_everything_is_fetched_once(link, cache, package):
    publish(link, package)
    chunks = chunks_of(package)
    first = pull(link, chunks, cache, timeout_s=5)
    assert (first.chunks, first.chunks_reused) == (len(chunks), 0)
    assert first.wire_bytes == sum(map(len, package.wire.values()))
    assert {chunk.sha256: cache.read(chunk) for chunk in chunks} == package.wire
    again = pull(link, chunks, cache, timeout_s=5)
    assert (again.chunks_reused, again.wire_bytes) == (len(chunks), 0)


def test_a_missing_chunk_times_out_after_all_others_came(link, cache, package):
    chunks = chunks_of(package)
    missing = chunks[3]
    publish(link, package)
    link.publish(topics.blob(missing.sha256), b"", retain=True, wait_s=5)
    with pytest.raises(TransferTimeoutError, match=f"nothing came at .*/{missing.sha256} within"):
        pull(link, chunks, cache, timeout_s=1)
    assert [chunk for chunk in chunks if not cache.has(chunk)] == [missing]


def test_wrong_bytes_are_named_and_not_kept(link, cache, package):
    chunks = chunks_of(package)
    wrong = chunks[5]
    publish(link, package)
    evil = bytes(wrong.wire_bytes)
    link.publish(topics.blob(wrong.sha256), evil, retain=True, wait_s=5)
    with pytest.raises(IntegrityError, match=f"chunk {wrong.sha256[:12]} has the SHA-256"):
        pull(link, chunks, cache, timeout_s=5)
    assert not cache.has(wrong)


class Broker(RetainedBroker):
    def __init__(self, package):
        super().__init__()
        for sha256, wire in package.wire.items():
            self.retained[topics.blob(sha256)] = wire, {}


def test_the_window_is_kept(cache, package):
    broker = Broker(package)
    pull(broker, chunks_of(package), cache, window=3, timeout_s=1)
    assert broker.most_open == 3
    assert broker.open == set()


def test_only_what_is_lacking_is_asked_for(cache, package):
    broker = Broker(package)
    chunks = chunks_of(package)
    pull(broker, chunks[:10], cache, timeout_s=1)
    broker.asked.clear()
    pull(broker, chunks, cache, timeout_s=1)
    assert broker.asked == [topics.blob(chunk.sha256) for chunk in chunks[10:]]


def test_a_full_disk_ends_the_transfer_and_its_subscriptions(package):
    class FullCache:
        def has(self, chunk):
            return False

        def put(self, chunk, wire):
            raise StorageError("no room")

    broker = Broker(package)
    with pytest.raises(StorageError):
        pull(broker, chunks_of(package), FullCache(), timeout_s=1)
    assert broker.open == set()


def test_a_connection_cut_in_the_middle_costs_one_window_at_most(link, cache, package):
    publish(link, package)
    chunks = chunks_of(package)
    kept = []

    class Cutting:
        def has(self, chunk):
            return cache.has(chunk)

        def put(self, chunk, wire):
            cache.put(chunk, wire)
            kept.append(chunk.sha256)
            if len(kept) == 20:
                link._client._sock.shutdown(socket.SHUT_RDWR)

    transfer = pull(link, chunks, Cutting(), timeout_s=10)
    assert transfer.chunks_reused == 0
    assert len(kept) == len(set(kept)) == len(chunks)
