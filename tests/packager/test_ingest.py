"""Reports over real brokers into a database, and what a wait says when none comes."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.brokers import KINDS, broker_of, connected
from support.reports import INVENTORY, make_report
from trimtab.errors import DeviceTimeoutError
from trimtab.fleet.devices import Devices
from trimtab.fleet.ingest import Ingest
from trimtab.fleet.reports import ReportStore
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.messages import (
    Acknowledgement,
    Progress,
    Status,
)
from trimtab_agent.errors import CallerError, StorageError


@pytest.fixture
def store(tmp_path):
    store = ReportStore(f"sqlite:///{tmp_path / 'fleet.sqlite'}")
    yield store
    store.close()


class LocalLink:
    """A link to a broker in this process: handlers run at once, publishes are kept."""

    def __init__(self):
        self.handlers = {}
        self.published = queue.Queue()

    def subscribe(self, topic, handler):
        self.handlers[topic] = handler

    def publish(self, topic, payload, **_):
        self.published.put((topic, payload))

    def receive(self, topic, message):
        payload = message if isinstance(message, bytes) else codec.encode(message)
        kind = topic.rpartition("/")[2]
        self.handlers[f"{topics.PREFIX}/device/+/{kind}"](topic, payload, {})

    def acknowledged(self):
        topic, payload = self.published.get_nowait()
        return topic, codec.decode(payload, Acknowledgement, what="ack").ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_stored_acknowledged_and_found(kind, store, tmp_path):
    acknowledgements = queue.Queue()
    with (
        broker_of(kind, tmp_path / "broker") as broker,
        connected(broker, "host") as host,
        connected(broker, "dev-1") as device,
    ):
        ingest = Ingest(host, store)
        device.subscribe(
            topics.acknowledgement("dev-1"), lambda _, payload, __: acknowledgements.put(payload)
        )
        time.sleep(0.2)  # until both subscriptions are made: neither message is retained
        device.publish(topics.report("dev-1"), codec.encode(make_report()), wait_s=5)
        assert ingest.wait_for_report("dev-1", 1, timeout_s=5) == make_report()
        assert acknowledgements.get(timeout=5) == b'{"ids":["report-1"]}'


@pytest.mark.parametrize("kind", KINDS)
def test_devices_are_followed_by_their_retained_status(kind, tmp_path):
    gone = codec.encode(Status(device="dev-1", online=False))
    here = Status(device="dev-1", online=True, active="demo-1.json", inventory=INVENTORY)
    with broker_of(kind, tmp_path / "broker") as broker, connected(broker, "host") as host:
        with connected(broker, "dev-1") as device:
            device.publish(topics.status("dev-1"), codec.encode(here), retain=True, wait_s=5)
            devices = Devices(host)
            assert devices.wait_for_device("dev-1", timeout_s=5) == here
            device.publish(topics.status("dev-1"), gone, retain=True, wait_s=5)
        deadline = time.monotonic() + 5
        while devices.statuses()["dev-1"].online and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(DeviceTimeoutError, match=r"'dev-1' is offline, .*; online are: none"):
            devices.wait_for_device("dev-1", timeout_s=0)
        assert list(devices.statuses()) == ["dev-1"]


def test_the_acknowledgement_comes_after_the_commit(store, tmp_path):
    class Link(LocalLink):
        def publish(self, topic, payload, **_):
            other = ReportStore(f"sqlite:///{tmp_path / 'fleet.sqlite'}")
            super().publish(topic, str(len(other.all())).encode())
            other.close()

    link = Link()
    Ingest(link, store)
    link.receive(topics.report("dev-1"), make_report())
    assert link.published.get_nowait() == (topics.acknowledgement("dev-1"), b"1")


def test_a_report_that_cannot_be_stored_is_not_acknowledged(store, monkeypatch):
    def refuse(_):
        raise StorageError("the disk is full")

    link = LocalLink()
    Ingest(link, store)
    monkeypatch.setattr(store, "add", refuse)
    with pytest.raises(StorageError):  # the link logs what a handler raises
        link.receive(topics.report("dev-1"), make_report())
    assert link.published.empty()


def test_a_report_that_comes_twice_is_kept_once_and_acknowledged_twice(store):
    link = LocalLink()
    Ingest(link, store)
    for _ in range(2):
        link.receive(topics.report("dev-1"), make_report())
        assert link.acknowledged() == (topics.acknowledgement("dev-1"), ("report-1",))
    assert store.all() == [make_report()]


@pytest.mark.parametrize(
    ("topic", "message", "said"),
    [
        (topics.report("dev-1"), b"{", "cannot be read as Report"),
        (topics.report("dev-1"), b"\xff", "cannot be read as Report"),
        (topics.report("dev-1"), {"id": 3}, r"Expected `str`, got `int` - at `\$\.id`"),
        (topics.report("dev-2"), make_report(), "claims to be from 'dev-1'"),
        (topics.progress("dev-1"), {"device": "dev-1"}, "missing required field"),
        (topics.status("dev-2"), Status(device="dev-1", online=True), "claims to be from"),
        (f"{topics.PREFIX}/device/dev 1/report", make_report(), "does not name a device"),
    ],
)
def test_bad_messages_are_logged_and_not_acknowledged(topic, message, said, store, caplog):
    link = LocalLink()
    Ingest(link, store)
    devices = Devices(link)
    link.receive(topic, message)
    assert link.published.empty()
    assert not store.all()
    assert not devices.statuses()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(said, record.getMessage())


def test_progress_of_invented_devices_is_bounded(store, monkeypatch):
    monkeypatch.setattr("trimtab.fleet.ingest.MAX_DEVICES", 3)
    link = LocalLink()
    ingest = Ingest(link, store)
    for name in ("a", "b", "c", "a", "d"):
        step = Progress(device=name, counter=1, target="t", state="fetching")
        link.receive(topics.progress(name), step)
    assert [bool(ingest.last_progress(name)) for name in "abcd"] == [True, False, True, True]


def test_a_wait_that_fails_says_how_far_the_device_got(store):
    link = LocalLink()
    ingest = Ingest(link, store)
    with pytest.raises(DeviceTimeoutError, match=r"'dev-1' sent no report .* nothing was heard"):
        ingest.wait_for_report("dev-1", 4, timeout_s=0.05)
    progress = Progress(
        device="dev-1", counter=4, target="demo-1.json", state="fetching", detail="3 of 9 chunks"
    )
    link.receive(topics.progress("dev-1"), progress)
    assert ingest.last_progress("dev-1") == progress
    with pytest.raises(
        DeviceTimeoutError,
        match=r"assignment 4 within 0\.05 s; the last .* is 'fetching' \(3 of 9 chunks\), of",
    ):
        ingest.wait_for_report("dev-1", 4, timeout_s=0.05)


def test_a_wait_ends_when_the_report_comes(store):
    link = LocalLink()
    ingest = Ingest(link, store)
    timer = threading.Timer(0.1, link.receive, (topics.report("dev-1"), make_report(7)))
    timer.start()
    assert ingest.wait_for_report("dev-1", 7, timeout_s=10) == make_report(7)
    timer.join()


def test_a_wait_sees_what_another_process_stored(store, tmp_path):
    ingest = Ingest(LocalLink(), store)
    other = ReportStore(f"sqlite:///{tmp_path / 'fleet.sqlite'}")
    timer = threading.Timer(0.1, other.add, (make_report(7),))
    timer.start()
    assert ingest.wait_for_report("dev-1", 7, timeout_s=10) == make_report(7)
    timer.join()
    other.close()


def test_a_device_that_is_not_there_is_named_with_those_that_are():
    link = LocalLink()
    devices = Devices(link)
    for name, online in (("b", True), ("a", True), ("c", False)):
        link.receive(topics.status(name), Status(device=name, online=online))
    with pytest.raises(
        DeviceTimeoutError, match=r"'x' has never been on this broker, .*online are: a, b$"
    ):
        devices.wait_for_device("x", timeout_s=0.02)
    link.receive(topics.status("b"), b"")
    assert list(devices.statuses()) == ["a", "c"]


def test_reports_are_listed_by_device_in_order(store):
    for number in (3, 1, 2):
        store.add(make_report(number, device=f"dev-{number % 2}"))
    assert [report.counter for report in store.all()] == [3, 1, 2]
    assert [report.counter for report in store.all("dev-1")] == [3, 1]
    assert store.find("dev-1", 2) is None
    assert store.find("dev-0", 2) == make_report(2, device="dev-0")


def test_the_database_is_in_wal_mode_and_syncs_every_commit(store):
    with store._database.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


@settings(max_examples=15, deadline=None)
@given(numbers=st.lists(st.integers(0, 5), max_size=15))
def test_each_report_is_kept_once_whatever_comes_again(numbers):
    store = ReportStore("sqlite://")
    added = [store.add(make_report(number)) for number in numbers]
    assert [report.counter for report in store.all()] == list(dict.fromkeys(numbers))
    assert added == [number not in numbers[:at] for at, number in enumerate(numbers)]
    store.close()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("not a url", CallerError, "database 'not a url' cannot be used"),
        ("nosuch://x", CallerError, "cannot be used"),
        ("sqlite:////proc/none/x.sqlite", StorageError, "the report database .* fails: unable to"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(url, error, message):
    with pytest.raises(error, match=message):
        ReportStore(url)


def test_a_damaged_database_is_a_storage_error(tmp_path):
    (tmp_path / "fleet.sqlite").write_bytes(b"no database " * 1000)
    with pytest.raises(StorageError, match="file is not a database"):
        ReportStore(f"sqlite:///{tmp_path / 'fleet.sqlite'}")
