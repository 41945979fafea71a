"""Publishing over real brokers, read back with the agent's own code."""

from __future__ import annotations

from datetime import timedelta

import pytest

from support.brokers import KINDS, broker_of, connected
from support.packages import make_package, model_bytes
from support.tuf_simulator import believe
from trimtab.fleet.documents import cut, publish_document
from trimtab.fleet.publish import PublishResult, assign, publish_metadata, publish_package
from trimtab.fleet.shelf import Shelf
from trimtab.package.metadata import utc_now
from trimtab.package.read import open_package
from trimtab.package.sign import Repository
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import distinct_chunks
from trimtab_agent.decode import decode_file
from trimtab_agent.errors import BrokerError, CallerError, PackageError, TransferTimeoutError
from trimtab_agent.fetcher import MqttDocuments
from trimtab_agent.trust import TrustStore
from trimtab_agent.window import fetch_retained


@pytest.fixture(params=KINDS)
def broker(request, tmp_path):
    with broker_of(request.param, tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def host(broker):
    with connected(broker, "host") as link:
        yield link


@pytest.fixture
def device(broker):
    with connected(broker, "device") as link:
        yield link


@pytest.fixture
def repository(tmp_path):
    return Repository.init(tmp_path / "repo")


@pytest.fixture
def shelf():
    shelf = Shelf("sqlite://")
    yield shelf
    shelf.close()


@pytest.fixture
def package(tmp_path):
    return open_package(make_package(tmp_path))


class Recorder:
    """A link that remembers what was published, and nothing else."""

    max_payload_bytes = None

    def __init__(self):
        self.topics = []

    def publish(self, topic, payload, **_):
        self.topics.append(topic)


def test_a_device_gets_the_package_from_the_root_alone(
    host, device, repository, package, tmp_path, shelf
):
    publish_package(host, repository, package, shelf=shelf)
    assignment = assign(host, repository, "dev-1", "demo-1.json", trial="t1", shelf=shelf)
    trust = TrustStore(tmp_path / "device", repository.root)
    fetcher = MqttDocuments(device, timeout_s=5)

    message = next(fetch_retained(device, [topics.assignment("dev-1")], timeout_s=5))
    believed = believe(trust, fetcher, message.payload, device="dev-1", now=utc_now())
    assert believed == assignment
    assert trust.target(fetcher, believed.target) == package.manifest_bytes

    chunks = distinct_chunks(package.manifest.files)
    blobs = fetch_retained(device, [topics.blob(c.sha256) for c in chunks], timeout_s=5)
    by_topic = {blob.topic: blob.payload for blob in blobs}
    model = package.manifest.file("model.tflite")
    data = decode_file(model, lambda chunk: by_topic[topics.blob(chunk.sha256)])
    assert b"".join(data) == model_bytes()


def test_the_next_release_and_a_new_timestamp_are_seen(host, device, repository, tmp_path, shelf):
    trust = TrustStore(tmp_path / "device", repository.root)
    for version in ("1", "2", "3"):
        package = open_package(make_package(tmp_path, version=version))
        publish_package(host, repository, package, shelf=shelf)
        fetcher = MqttDocuments(device, timeout_s=5)
        assert trust.target(fetcher, f"demo-{version}.json") == package.manifest_bytes
        repository.refresh_timestamp()
        publish_metadata(host, repository, shelf=shelf)


def test_a_large_document_travels_in_parts(host, device, shelf):
    data = model_bytes(400_000)
    publish_document(host, "big", data, shelf=shelf)
    assert b"".join(MqttDocuments(device, timeout_s=5).read("big")) == data
    with pytest.raises(TransferTimeoutError):
        list(fetch_retained(device, [topics.document("big", 5)], timeout_s=0.3))


def test_publishing_without_a_connection_says_so(broker, repository, package, shelf):
    with connected(broker, "host") as link:
        pass
    with pytest.raises(BrokerError, match="not sent, there is no connection"):
        publish_package(link, repository, package, shelf=shelf)


def test_chunks_come_first_and_the_timestamp_after_all_it_leads_to(repository, package, shelf):
    link = Recorder()
    publish_package(link, repository, package, shelf=shelf)
    kinds = [topic.split("/")[2] for topic in link.topics]
    chunks = len(distinct_chunks(package.manifest.files))
    assert kinds == ["blob"] * chunks + ["doc"] * (len(kinds) - chunks - 1) + ["root-version"]
    assert [topic.split("/")[3] for topic in link.topics if "json" in topic] == [
        "1.root.json",
        "2.targets.json",
        "2.snapshot.json",
        "timestamp.json",
    ]


def test_what_the_broker_holds_is_not_sent_again(repository, package, tmp_path, shelf):
    first = publish_package(Recorder(), repository, package, shelf=shelf)
    assert first == PublishResult(
        target="demo-1.json",
        chunks=first.chunks,
        chunks_sent=first.chunks,
        sent_bytes=package.manifest.sizes.wire_bytes,
    )
    link = Recorder()
    second = open_package(make_package(tmp_path, version="2"))
    result = publish_package(link, repository, second, shelf=shelf)
    assert (result.chunks_sent, result.sent_bytes) == (0, 0)
    assert not [topic for topic in link.topics if "/blob/" in topic or "root.json" in topic]
    assert topics.document("timestamp.json", 0) in link.topics


def test_publishing_and_assigning_keep_the_metadata_fresh(tmp_path, package, shelf):
    now = [utc_now()]
    repository = Repository.init(tmp_path / "repo", clock=lambda: now[0])
    timestamp = topics.document("timestamp.json", 0)
    publish_package(Recorder(), repository, package, shelf=shelf)
    for publish in (
        lambda link: publish_package(link, repository, package, shelf=shelf),
        lambda link: assign(link, repository, "dev-1", "demo-1.json", shelf=shelf),
    ):
        now[0] += timedelta(days=10)
        link = Recorder()
        publish(link)
        assert timestamp in link.topics
        assert not repository.needs_refresh
    link = Recorder()
    assign(link, repository, "dev-1", "demo-1.json", shelf=shelf)
    assert link.topics == [topics.assignment("dev-1")]


def test_progress_is_told_in_bytes(repository, package, shelf):
    steps = []
    publish_package(
        Recorder(), repository, package, shelf=shelf, on_progress=lambda *step: steps.append(step)
    )
    total = package.manifest.sizes.wire_bytes
    assert steps[-1] == (total, total)
    assert [sent for sent, _ in steps] == sorted({sent for sent, _ in steps})


def test_a_chunk_that_the_broker_does_not_take_stops_before_anything_is_sent(
    repository, package, shelf
):
    link = Recorder()
    link.max_payload_bytes = 50_000
    with pytest.raises(
        PackageError,
        match=r"demo-1\.trimtab has a chunk of 98304 bytes, .* at most 50000: .* smaller chunk",
    ):
        publish_package(link, repository, package, shelf=shelf)
    assert link.topics == []
    assert "demo-1.json" not in repository.targets()


def test_documents_respect_the_brokers_limit(shelf):
    link = Recorder()
    link.max_payload_bytes = 100
    publish_document(link, "d", bytes(250), shelf=shelf)
    assert link.topics == [topics.document("d", part) for part in (2, 1, 0)]
    with pytest.raises(PackageError, match="which is 129 messages of 100; devices read at most"):
        publish_document(link, "d", bytes(100 * 128 + 1), shelf=shelf)


@pytest.mark.parametrize(("size", "parts"), [(0, [0]), (1, [1]), (10, [10]), (11, [10, 1])])
def test_documents_are_cut_into_one_or_more_parts(size, parts):
    assert [len(part) for part in cut(bytes(size), 10)] == parts


def test_a_version_cannot_be_published_twice_with_other_content(
    repository, package, tmp_path, shelf
):
    publish_package(Recorder(), repository, package, shelf=shelf)
    other = open_package(make_package(tmp_path, data=b"other"))
    with pytest.raises(CallerError, match=r"'demo-1\.json' is released already"):
        publish_package(Recorder(), repository, other, shelf=shelf)


def test_an_assignment_of_something_unreleased_is_not_sent(repository, shelf):
    link = Recorder()
    with pytest.raises(CallerError, match="is not released here"):
        assign(link, repository, "dev-1", "demo-1.json", shelf=shelf)
    assert link.topics == []
