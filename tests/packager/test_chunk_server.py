"""Want-lists answered over real brokers and over a fake one; fairness and hostile devices."""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import threading
import time
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.brokers import KINDS, broker_of, connected
from support.packages import make_package
from support.peak_memory import peak_growth
from trimtab.fleet.chunk_server import WORKERS, ChunkServer
from trimtab.fleet.fair_queue import MAX_WAITING, FairQueue, Request
from trimtab.fleet.library import Library, adopt
from trimtab.package.read import open_package
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import all_chunks, sha256_hex
from trimtab_agent.contract.wants import CORRELATION, MISSING, RESPONSE_TOPIC, encode_want
from trimtab_agent.errors import BrokerError

ABSENT = hashlib.sha256(b"absent").hexdigest()


@pytest.fixture
def package(tmp_path):
    return open_package(make_package(tmp_path, chunk_limit_bytes=16 * 1024))


@pytest.fixture
def hashes(package):
    return [chunk.sha256 for chunk in all_chunks(package.manifest.files)]


class FakeLink:
    """Delivers want-lists; keeps what is published, once `gate` lets it through."""

    connected = True
    pace_s = 0.0

    def __init__(self):
        self.handlers = {}
        self.answers = queue.Queue()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = 0

    def subscribe(self, topic, handler):
        self.handlers[topic] = handler

    def unsubscribe(self, topic):
        del self.handlers[topic]

    def publish(self, topic, payload, *, wait_s, properties=None, correlation=None):
        self.waiting += 1
        self.gate.wait(10)
        time.sleep(self.pace_s)
        self.answers.put((topic, payload, properties, correlation))

    def want(self, device, hashes, *, answer_to=None, correlation="0102030405060708"):
        (handler,) = self.handlers.values()
        properties = {RESPONSE_TOPIC: answer_to or topics.block(device), CORRELATION: correlation}
        payload = hashes if isinstance(hashes, bytes) else encode_want(hashes)
        handler(topics.want(device), payload, properties)


@pytest.fixture
def link():
    return FakeLink()


@pytest.fixture
def server(link, tmp_path, package):
    with ChunkServer(link, Library(tmp_path), share="s") as server:
        yield server


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_gets_what_it_wants_over_a_broker(kind, tmp_path, package, hashes):
    with (
        broker_of(kind, tmp_path / "broker") as broker,
        connected(broker, "host") as host,
        connected(broker, "host-2") as other,
        connected(broker, "device") as device,
        ChunkServer(host, Library(tmp_path), share="s"),
        ChunkServer(other, Library(tmp_path), share="s"),
    ):
        answers = queue.Queue()
        device.subscribe(topics.block("dev-1"), lambda *message: answers.put(message))
        time.sleep(0.3)  # iotcore acknowledges a shared subscription before it is in force
        wanted = [*hashes, ABSENT]
        device.publish(
            topics.want("dev-1"),
            encode_want(wanted),
            response_topic=topics.block("dev-1"),
            correlation=b"12345678",
        )
        came = [answers.get(timeout=10) for _ in wanted]
        assert {sha256_hex(payload) for _, payload, _ in came if payload} == set(hashes)
        assert {properties[CORRELATION] for _, _, properties in came} == {b"12345678".hex()}
        (missing,) = [properties for _, payload, properties in came if not payload]
        assert missing[MISSING] == ABSENT
        time.sleep(0.1)
        assert answers.empty()  # one of the two hosts answered


def test_every_chunk_is_answered_with_its_correlation(server, link, hashes):
    link.want("dev-1", [*hashes, ABSENT])
    answers = [link.answers.get(timeout=5) for _ in range(len(hashes) + 1)]
    assert {topic for topic, *_ in answers} == {topics.block("dev-1")}
    assert {sha256_hex(payload) for _, payload, _, _ in answers if payload} == set(hashes)
    assert {correlation for *_, correlation in answers} == {bytes(range(1, 9))}
    assert [properties for _, payload, properties, _ in answers if not payload] == [
        {MISSING: ABSENT}
    ]


@pytest.mark.parametrize(
    ("wanted", "answer_to", "said"),
    [
        ([ABSENT], topics.block("dev-2"), "wants its answer at 'trimtab/v1/device/dev-2/block'"),
        ([ABSENT], topics.assignment("dev-1"), "dev-1/assignment', not at .*/dev-1/block"),
        ([ABSENT], "$SYS/broker", "not at"),
        (b"", None, "a want-list has 1 to 64 digests"),
        (bytes(33), None, "this has 33 bytes"),
        (bytes(32 * 65), None, "this has 2080 bytes"),
        (bytes(64), None, "more than once"),
    ],
    ids=["other", "assignment", "system", "empty", "odd", "long", "twice"],
)
def test_a_want_list_that_is_none_is_refused(server, link, wanted, answer_to, said, caplog):
    link.want("dev-1", wanted, answer_to=answer_to)
    link.want("dev-3", [ABSENT])
    assert link.answers.get(timeout=5)[0] == topics.block("dev-3")
    assert link.answers.empty()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "refused: " in record.getMessage()
    assert re.search(said, record.getMessage())


def test_the_window_bounds_what_is_under_way(server, link, hashes):
    link.gate.clear()
    link.want("dev-1", hashes)
    deadline = time.monotonic() + 5
    while link.waiting < WORKERS and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert link.waiting == WORKERS < len(hashes)
    link.gate.set()
    assert {sha256_hex(link.answers.get(timeout=5)[1]) for _ in hashes} == set(hashes)


def test_a_device_that_floods_delays_the_others_by_a_turn_each(server, link, hashes):
    link.gate.clear()
    link.pace_s = 0.01
    flood = [hashlib.sha256(bytes([number])).hexdigest() for number in range(64)]
    link.want("flood", flood)
    while link.waiting < WORKERS:
        time.sleep(0.01)
    link.want("dev-1", hashes[:5])
    link.gate.set()
    order = [link.answers.get(timeout=5)[0] for _ in range(64 + 5)]
    last = max(at for at, topic in enumerate(order) if topic == topics.block("dev-1"))
    # Eight were under way, then one each in turns; threads may finish out of order.
    assert last < WORKERS + 2 * 5 + WORKERS


def test_one_failed_answer_does_not_end_the_service(link, tmp_path, package, hashes, caplog):
    failing = [BrokerError("no connection")] * 3

    class Flaky(FakeLink):
        def publish(self, *arguments, **options):
            if failing:
                raise failing.pop()
            super().publish(*arguments, **options)

    link = Flaky()
    with ChunkServer(link, Library(tmp_path), share="s"):
        link.want("dev-1", hashes[:10])
        assert len([link.answers.get(timeout=5) for _ in range(7)]) == 7
    assert [record.getMessage() for record in caplog.records] == ["no connection"] * 3


# The queue.


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40),
)
def test_requests_come_out_once_in_turns_and_in_order(asked):
    waiting = FairQueue()
    assert waiting.put([Request(device, str(number), "x") for device, number in asked]) == 0
    distinct = list(dict.fromkeys(asked))
    came = [waiting.get() for _ in distinct]
    waiting.close()
    assert waiting.get() is None
    assert sorted(came) == sorted(Request(device, str(n), "x") for device, n in distinct)
    for device in "abc":
        own = [request.sha256 for request in came if request.device == device]
        assert own == [str(n) for d, n in distinct if d == device]
    # Nobody is served twice while another waits: in the first k * n answers each of n had k.
    counts = {d: sum(device == d for device, _ in distinct) for d in {d for d, _ in distinct}}
    rounds = min(counts.values(), default=0)
    head = [request.device for request in came[: rounds * len(counts)]]
    assert all(head.count(device) == rounds for device in counts)


def test_what_one_device_may_have_waiting_is_bounded():
    waiting = FairQueue()
    many = [Request("flood", str(number), "") for number in range(MAX_WAITING + 10)]
    assert waiting.put(many) == 10
    assert waiting.put([Request("dev-1", "x", "")]) == 0
    assert waiting.put([Request("flood", "0", "later")]) == 0
    assert waiting.get() == Request("flood", "0", "later")


def test_closing_wakes_those_that_wait():
    waiting = FairQueue()
    came = queue.Queue()
    thread = threading.Thread(target=lambda: came.put(waiting.get()))
    thread.start()
    waiting.close()
    assert came.get(timeout=5) is None
    thread.join()


# The library.


def test_every_chunk_of_every_package_is_found(tmp_path, package):
    library = Library(tmp_path)
    for chunk, wire in package.wire_chunks():
        assert library.read(chunk.sha256) == wire
    assert library.read(ABSENT) is None


def test_packages_that_come_change_and_go_are_noticed(tmp_path, package, hashes, monkeypatch):
    monkeypatch.setattr("trimtab.fleet.library._LOOK_AGAIN_S", 0.0)
    library = Library(tmp_path)
    assert library.read(hashes[0])
    second = open_package(make_package(tmp_path, version="2", data=b"other" * 1000))
    own = [chunk.sha256 for chunk, _ in second.wire_chunks() if chunk.sha256 not in hashes]
    assert all(library.read(sha256) for sha256 in own)
    second.path.unlink()
    assert library.read(ABSENT) is None  # looks again
    assert not any(library.read(sha256) for sha256 in own)
    assert all(library.read(sha256) for sha256 in hashes)  # some were in both


def test_the_folder_is_not_read_for_every_chunk_that_is_missing(
    tmp_path, package, hashes, monkeypatch
):
    library = Library(tmp_path)
    assert library.read(hashes[0])
    make_package(tmp_path, version="2", data=b"other" * 1000)
    (tmp_path / "broken.trimtab").write_bytes(b"PK")
    looks = []
    monkeypatch.setattr("trimtab.fleet.library._index", lambda path: looks.append(path) or {})
    for number in range(100):
        library.read(hashlib.sha256(bytes([number])).hexdigest())
    assert len(looks) <= 2


@pytest.mark.parametrize("damage", ["flip", "cut", "rewrite"])
def test_damaged_bytes_are_never_handed_out(tmp_path, package, hashes, damage, caplog):
    library = Library(tmp_path)
    assert all(library.read(sha256) for sha256 in hashes)
    data = bytearray(package.path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        del data[len(data) // 3 :]
    else:
        data = data[::-1]
    with package.path.open("r+b") as file:  # in place, behind the library's back
        file.truncate(0)
        file.write(data)
    came = [library.read(sha256) for sha256 in hashes]
    assert None in came
    assert all(
        wire is None or sha256_hex(wire) == sha for wire, sha in zip(came, hashes, strict=True)
    )
    assert any("restore it" in r.getMessage() or "read" in r.getMessage() for r in caplog.records)


def test_files_that_are_no_packages_are_left_aside(tmp_path, package, hashes, caplog):
    (tmp_path / "a.trimtab").write_bytes(b"no zip")
    with zipfile.ZipFile(tmp_path / "b.trimtab", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"chunks/{ABSENT}", bytes(10**7))
        archive.writestr("chunks/no-hash", b"x")
    library = Library(tmp_path)
    assert library.read(hashes[0])
    assert library.read(ABSENT) is None
    assert "a.trimtab is left aside" in caplog.text


def test_a_package_from_elsewhere_is_taken_into_the_workspace(tmp_path, package, hashes):
    (tmp_path / "workspace").mkdir()
    own = adopt(tmp_path / "workspace", package)
    assert own.path == tmp_path / "workspace" / "demo-1.trimtab"
    assert own.path.read_bytes() == package.path.read_bytes()
    assert adopt(tmp_path / "workspace", package) == own
    assert Library(tmp_path / "workspace").read(hashes[0])


def test_a_large_package_is_never_in_memory(tmp_path):
    wires = {sha256_hex(wire): wire for wire in (bytes([n]) * 100_000 for n in range(200))}
    with zipfile.ZipFile(tmp_path / "large.trimtab", "w") as archive:
        for sha256, wire in wires.items():
            archive.writestr(f"chunks/{sha256}", wire)
    names = list(wires)
    del wires
    library = Library(tmp_path)
    with peak_growth() as growth:
        assert all(library.read(sha256) for sha256 in names)
    assert growth.peak_bytes < 4_000_000
