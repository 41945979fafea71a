"""The host's services together: they start, survive what fails, and heal a broker."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from support.brokers import KINDS
from support.packages import make_package
from support.retaining import RetainingLink
from trimtab.fleet.broker import start_broker
from trimtab.fleet.publish import assign, publish_package
from trimtab.fleet.shelf import Shelf
from trimtab.package.read import open_package
from trimtab.workflow import services
from trimtab.workflow.services import host_services
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import all_chunks
from trimtab_agent.contract.wants import encode_want
from trimtab_agent.errors import TransferTimeoutError
from trimtab_agent.link import Link, parse_broker_url
from trimtab_agent.window import fetch_retained


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace")
    path = make_package(tmp_path, data=b"model" * 4000)
    path.rename(workspace.packages / path.name)
    return workspace


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr("trimtab.fleet.looking.SETTLE_S", 0.0)
    monkeypatch.setattr(services, "RETRY_S", 0.05)


def publish(workspace, link):
    shelf = Shelf(workspace.database_url)
    package = open_package(workspace.packages / "demo-1.trimtab")
    publish_package(link, workspace.repository(), package, shelf=shelf)
    assign(link, workspace.repository(), "dev-1", "demo-1.json", shelf=shelf)
    shelf.close()


def eventually(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class LockedLink(RetainingLink):
    """Several threads use it."""

    def __init__(self):
        super().__init__()
        self.lock = threading.RLock()

    def publish(self, *arguments, **options):
        with self.lock:
            super().publish(*arguments, **options)

    def subscribe_many(self, *arguments):
        with self.lock:
            super().subscribe_many(*arguments)


def test_a_broker_that_comes_back_empty_is_filled_again(workspace):
    link = LockedLink()
    publish(workspace, link)
    with host_services(link, workspace):
        for _ in range(2):
            with link.lock:
                before = set(link.retained)
                link.retained.clear()
                for call in link.calls:
                    call()
            eventually(lambda before=before: before <= set(link.retained))
    assert not link.handlers.keys() - {topics.ALL_REPORTS, topics.ALL_PROGRESS}


def test_a_broker_that_goes_in_the_middle_is_tried_again(workspace, caplog):
    link = LockedLink()
    publish(workspace, link)
    expected = set(link.retained)
    link.retained.clear()
    link.sent.clear()
    link.fail_after = 3
    with host_services(link, workspace):
        eventually(lambda: "trying again" in caplog.text)
        link.fail_after = None
        eventually(lambda: expected <= set(link.retained))


def test_a_damaged_package_ends_nothing(workspace, caplog):
    link = LockedLink()
    publish(workspace, link)
    path = workspace.packages / "demo-1.trimtab"
    path.write_bytes(path.read_bytes()[:100])
    link.retained.pop(topics.ROOT_VERSION)
    with host_services(link, workspace):
        eventually(lambda: "not kept up: demo-1.trimtab" in caplog.text)
        assert topics.ROOT_VERSION in link.retained


def test_a_timestamp_that_is_due_is_signed_and_published(workspace, monkeypatch):
    link = LockedLink()
    publish(workspace, link)
    before = link.retained[topics.document("timestamp.json", 0)]
    repository = type(workspace.repository())
    due = [True]
    monkeypatch.setattr(repository, "needs_refresh", property(lambda _: bool(due) and due.pop()))
    monkeypatch.setattr(services, "publish_metadata", _refreshing)
    with host_services(link, workspace):
        eventually(lambda: link.retained[topics.document("timestamp.json", 0)] != before)


def _refreshing(link, repository, *, shelf):
    from trimtab.fleet.publish import publish_metadata

    repository.refresh_timestamp()
    publish_metadata(link, repository, shelf=shelf)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_that_was_killed_and_wiped_heals(kind, workspace, tmp_path):
    with start_broker(tmp_path / "broker", kind=kind) as broker:
        url, port = parse_broker_url(broker.url), int(broker.url.rpartition(":")[2])
        with Link(url, "host") as link, Link(url, "device") as device:
            link.connect(5)
            device.connect(5)
            publish(workspace, link)
            with host_services(link, workspace):
                chunks = all_chunks(
                    open_package(workspace.packages / "demo-1.trimtab").manifest.files
                )
                names = [topics.blob(chunk.sha256) for chunk in chunks]
                names += [topics.assignment("dev-1"), topics.document("timestamp.json", 0)]
                assert len(list(fetch_retained(device, names, timeout_s=5))) == len(names)
                broker._process.send_signal(signal.SIGKILL)
                broker._process.wait()
                for file in Path(tmp_path / "broker").glob("*.db"):
                    file.unlink()
                with start_broker(tmp_path / "broker", kind=kind, port=port):
                    eventually(lambda: link.connected and device.connected, 60)
                    eventually(lambda: _all_there(device, names), 60)
                    answers = []
                    device.subscribe(
                        topics.block("dev-1"), lambda *message: answers.append(message)
                    )
                    time.sleep(0.5)
                    device.publish(
                        topics.want("dev-1"),
                        encode_want([chunk.sha256 for chunk in chunks]),
                        response_topic=topics.block("dev-1"),
                        correlation=b"12345678",
                    )
                    eventually(lambda: len(answers) == len(chunks))


def _all_there(device, names) -> bool:
    try:
        return len(list(fetch_retained(device, names, timeout_s=0.5))) == len(names)
    except TransferTimeoutError:
        return False


@pytest.mark.slow
def test_serving_at_a_broker_that_somebody_else_runs(workspace, tmp_path):
    with (
        start_broker(tmp_path / "broker") as broker,
        Link(parse_broker_url(broker.url), "host") as link,
    ):
        link.connect(5)
        publish(workspace, link)
        link.publish(topics.ROOT_VERSION, b"", retain=True, wait_s=5)
        command = ["trimtab", "serve", "--broker", broker.url, "-w", str(workspace.path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert f"serving devices at {broker.url}" in process.stdout.readline()
            eventually(lambda: _all_there(link, [topics.ROOT_VERSION]), 20)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        assert process.returncode == 0
