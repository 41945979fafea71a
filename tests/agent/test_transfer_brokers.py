"""Transfers over real brokers: cut connections, kills, lost stores, and what a link hands over."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time

import pytest

from support import agent_brokers as brokers
from support.manifests import small_package
from trimtab_agent.chunk_cache import ChunkCache
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import distinct_chunks
from trimtab_agent.contract.wants import CORRELATION, MISSING, RESPONSE_TOPIC, decode_want
from trimtab_agent.link import BrokerUrl, Link
from trimtab_agent.pull import pull
from trimtab_agent.transfer import mqtt_ways
from trimtab_agent.window import Inbox

PACKAGE = small_package(model=os.urandom(400_000))  # 99 chunks
CHUNKS = distinct_chunks(PACKAGE.manifest.files)


@pytest.fixture(
    params=["mosquitto", pytest.param("iotcore", marks=pytest.mark.slow)], scope="module"
)
def url(request, tmp_path_factory):
    with brokers.broker(request.param, tmp_path_factory.mktemp("broker")) as address:
        yield address


def publish(link):
    for sha256, wire in PACKAGE.wire.items():
        link.publish(topics.blob(sha256), wire, retain=True)
    link.publish("test/last", b"", wait_s=5)


class Worker:
    """A small host: answers want-lists from the package."""

    def __init__(self, link):
        self._link = link
        self.wanted = []
        link.subscribe(f"$share/test/{topics.ALL_WANTS}", self._answer)

    def _answer(self, topic, payload, properties):
        for sha256 in decode_want(payload, what=topic):
            self.wanted.append(sha256)
            wire = PACKAGE.wire.get(sha256)
            self._link.publish(
                properties[RESPONSE_TOPIC],
                wire or b"",
                properties=None if wire else {MISSING: sha256},
                correlation=bytes.fromhex(properties[CORRELATION]),
            )


class Kept(ChunkCache):
    """Does something when it has so many chunks; knows what was stored twice."""

    def __init__(self, directory, call=lambda: None, at=20):
        directory.mkdir()
        super().__init__(directory)
        self._call, self._at = call, at
        self.stored = []

    def put(self, chunk, wire):
        super().put(chunk, wire)
        self.stored.append(chunk.sha256)
        if len(self.stored) == self._at:
            self._call()

    def check(self):
        assert len(self.stored) == len(set(self.stored)) == len(CHUNKS)
        assert all(self.read(chunk) == PACKAGE.wire[chunk.sha256] for chunk in CHUNKS)


def transfer(link, cache, timeout_s=10.0, group=None):
    ways = mqtt_ways(link, device="dev-1", timeout_s=timeout_s)(group)
    return pull(ways, CHUNKS, cache, stop=lambda: False)


def test_a_link_hands_over_where_to_answer_and_nobody_can_pretend_it(url):
    with Link(url, "asker") as asker, Link(url, "host") as host:
        asker.connect(5)
        host.connect(5)
        inbox = queue.Queue()
        host.subscribe("test/want", lambda *message: inbox.put(message))
        time.sleep(0.2)
        forged = {RESPONSE_TOPIC: "elsewhere", CORRELATION: "00", "kept": "yes"}
        asker.publish("test/want", b"x", properties=forged, wait_s=5)
        assert inbox.get(timeout=5)[2] == {"kept": "yes"}
        asker.publish("test/want", b"x", response_topic="test/block", correlation=b"\x01\xff")
        assert inbox.get(timeout=5)[2] == {RESPONSE_TOPIC: "test/block", CORRELATION: "01ff"}


def test_retained_messages_bring_all_and_a_cut_connection_costs_no_chunk_twice(url, tmp_path):
    with Link(url, "publisher") as host, Link(url, "dev-1") as link:
        host.connect(5)
        link.connect(5)
        publish(host)
        cache = Kept(tmp_path / "a", lambda: link._client._sock.shutdown(socket.SHUT_RDWR))
        assert transfer(link, cache).by_way == {"retained": len(CHUNKS)}
        cache.check()
        assert link.connections == 2


def test_what_the_broker_lacks_and_what_is_poisoned_comes_from_the_host(url, tmp_path):
    with Link(url, "publisher") as host, Link(url, "dev-1") as link:
        host.connect(5)
        link.connect(5)
        publish(host)
        worker = Worker(host)
        missing, poisoned = CHUNKS[3].sha256, CHUNKS[50].sha256
        host.publish(topics.blob(missing), b"", retain=True, wait_s=5)
        host.publish(topics.blob(poisoned), bytes(4096), retain=True, wait_s=5)
        cache = Kept(tmp_path / "a")
        found = transfer(link, cache)
        cache.check()
        assert found.by_way == {"retained": len(CHUNKS) - 2, "asked": 2}
        assert (found.rejected, sorted(worker.wanted)) == (1, sorted([missing, poisoned]))


@pytest.mark.slow
def test_a_group_hears_a_broadcast(url, tmp_path):
    with Link(url, "publisher") as host, Link(url, "dev-1") as link:
        host.connect(5)
        link.connect(5)
        Worker(host)

        def broadcast():
            time.sleep(0.5)
            for wire in list(PACKAGE.wire.values())[::2]:
                host.publish(topics.group_chunk("line-3"), wire)
                time.sleep(0.002)

        thread = threading.Thread(target=broadcast)
        thread.start()
        cache = Kept(tmp_path / "a")
        found = transfer(link, cache, group="line-3")
        thread.join()
        cache.check()
        assert found.by_way["broadcast"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("wiped", [False, True], ids=["persistent", "wiped"])
def test_a_killed_broker_comes_back(tmp_path, wiped):
    port = brokers.free_port()
    persist = f"persistence true\npersistence_location {tmp_path}/\nautosave_interval 1\n"

    def run():
        return brokers.broker("mosquitto", tmp_path, port=port, extra=persist)

    first = run()
    with Link(first.__enter__(), "publisher") as host:
        host.connect(5)
        with Link(host._broker, "dev-1") as link:
            link.connect(5)
            Worker(host)
            publish(host)
            time.sleep(2.5)  # it saves every second
            again = []

            def restart():
                first.__exit__(None, None, None)  # kills it
                if wiped:
                    (tmp_path / "mosquitto.db").unlink(missing_ok=True)
                again.append(run())
                again[0].__enter__()

            cache = Kept(tmp_path / "a", restart)
            found = transfer(link, cache)
            cache.check()
            assert ("asked" in found.by_way) == wiped
            assert link.connections == 2
    again[0].__exit__(None, None, None)


@contextlib.contextmanager
def slow_line(broker, bytes_per_s):
    """Yields the address of a proxy that passes on so little of what the broker sends."""
    server = socket.create_server(("127.0.0.1", 0))
    sockets = [server]

    def up(client, upstream):
        with contextlib.suppress(OSError):
            while data := client.recv(4096):
                upstream.sendall(data)

    def down():
        with contextlib.suppress(OSError):
            client, _ = server.accept()
            upstream = socket.create_connection((broker.host, broker.port))
            sockets.extend([client, upstream])
            threading.Thread(target=up, args=(client, upstream), daemon=True).start()
            while data := upstream.recv(200):
                time.sleep(len(data) / bytes_per_s)
                client.sendall(data)

    thread = threading.Thread(target=down)
    thread.start()
    try:
        yield BrokerUrl("127.0.0.1", server.getsockname()[1])
    finally:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in sockets:
            each.close()


@pytest.mark.slow
def test_a_line_on_which_a_chunk_takes_longer_than_the_patience_is_slow_and_not_silent(tmp_path):
    (tmp_path / "broker").mkdir()
    with (
        brokers.broker("mosquitto", tmp_path / "broker") as address,
        slow_line(address, 4000) as slow,
        Link(address, "publisher") as host,
        Link(slow, "dev-1") as link,
    ):
        host.connect(5)
        link.connect(5)
        publish(host)
        cache = Kept(tmp_path / "a")
        ways = mqtt_ways(link, device="dev-1", timeout_s=0.4)(None)
        found = pull(ways, CHUNKS[:5], cache, stop=lambda: False)
        assert found.by_way == {"retained": 5}
        assert found.duration_s > 4.0


def test_an_inbox_is_filled_on_the_network_thread_and_drops_what_is_too_much(url):
    threads = set()

    class Watched(Inbox):
        def __call__(self, topic, payload, properties):
            threads.add(threading.current_thread().name)
            super().__call__(topic, payload, properties)

    with Link(url, "sender") as sender, Link(url, "taker") as taker:
        sender.connect(5)
        taker.connect(5)
        inbox = Watched(3)
        taker.subscribe_many(["test/flood"], inbox)
        time.sleep(0.2)
        for number in range(10):
            sender.publish("test/flood", b"%d" % number, wait_s=5)
        time.sleep(0.2)
        assert [inbox.take(1).payload for _ in range(3)] == [b"0", b"1", b"2"]
        assert inbox.take(0.01) is None
        assert threads == {"paho-mqtt-client-taker"}


def test_each_loss_of_the_connection_draws_its_own_wait(url):
    with Link(url, "waiter") as link:
        link.connect(5)
        delays = set()
        for _ in range(6):
            link._draw_delay()
            delays.add(link._client._reconnect_min_delay)
            assert 0 <= link._client._reconnect_min_delay <= 60
        assert len(delays) == 6
