"""What a broker lost, or was given by somebody else, is mended; what nobody wants is cleared."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.brokers import KINDS, broker_of, connected
from support.packages import make_package
from support.retaining import RetainingLink
from trimtab.fleet import audit as audit_module
from trimtab.fleet.audit import MARKER, Audit, AuditResult
from trimtab.fleet.library import Library
from trimtab.fleet.looking import FENCE, Looking
from trimtab.fleet.prune import kept_packages
from trimtab.fleet.publish import assign, publish_metadata, publish_package
from trimtab.fleet.shelf import Assigned, Shelf
from trimtab.package.read import open_package
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract import topics
from trimtab_agent.contract.messages import Assignment
from trimtab_agent.errors import BrokerError, TransferTimeoutError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with keys and two packages: made once, since it takes a while."""
    workspace = Workspace.create(tmp_path_factory.mktemp("audit") / "workspace")
    for version, size in (("1", 30_000), ("2", 31_000)):
        source = tmp_path_factory.mktemp("package")
        path = make_package(source, version=version, data=bytes(size) + version.encode() * 999)
        path.rename(workspace.packages / path.name)
    return workspace


@pytest.fixture
def shelf():
    shelf = Shelf("sqlite://")
    yield shelf
    shelf.close()


@pytest.fixture
def link():
    return RetainingLink()


def package_of(workspace, version):
    return open_package(workspace.packages / f"demo-{version}.trimtab")


def auditor(link, workspace, shelf):
    library = Library(workspace.packages)
    return Audit(
        link, workspace.repository, workspace.packages, library, shelf, stop=threading.Event()
    )


@pytest.fixture
def audit(link, made, shelf, monkeypatch):
    """An audit of a broker with both packages and an assignment, which keeps order."""
    monkeypatch.setattr("trimtab.fleet.looking.SETTLE_S", 0.0)
    for version in ("1", "2"):
        publish_package(link, made.repository(), package_of(made, version), shelf=shelf)
    assign(link, made.repository(), "dev-1", "demo-1.json", shelf=shelf)
    audit = auditor(link, made, shelf)
    audit.run()
    return audit


def without(retained, *names):
    return {topic: message for topic, message in retained.items() if topic not in names}


def blobs(link):
    return [topic for topic in link.retained if "/blob/" in topic]


def test_a_broker_that_is_right_is_left_alone(audit, link):
    link.sent.clear()
    result = audit.run()
    assert (result.restored, result.cleared, result.lost) == (0, 0, 0)
    assert link.sent == [FENCE] * len(link.sent)
    assert MARKER in link.retained


def test_a_wiped_broker_gets_everything_back(audit, link):
    before = without(link.retained, MARKER)
    link.retained.clear()
    result = audit.run()
    assert without(link.retained, MARKER) == before
    assert result.restored == len(before)
    assert audit.run().restored == 0


def test_an_assignment_comes_back_as_it_was_signed(audit, link):
    message = link.retained.pop(topics.assignment("dev-1"))
    audit.run()
    assert link.retained[topics.assignment("dev-1")] == message


@pytest.mark.parametrize("what", ["blob", "doc", "timestamp.json", "root-version", "assignment"])
def test_wrong_bytes_are_replaced(audit, link, what):
    before = without(link.retained, MARKER)
    topic = next(topic for topic in before if what in topic)
    link.retained[topic] = b"poison", link.retained[topic][1]
    audit.forget()
    assert audit.run().restored == 1
    assert without(link.retained, MARKER) == before


def test_a_part_that_claims_another_number_of_parts_is_replaced(audit, link):
    topic = topics.document("timestamp.json", 0)
    payload, _ = link.retained[topic]
    link.retained[topic] = payload, {"parts": "2"}
    assert audit.run().restored == 1
    assert link.retained[topic] == (payload, {"parts": "1"})


def test_what_was_right_is_not_looked_at_again_while_the_broker_is_the_same(audit, link):
    audit.run()
    link.asked.clear()
    audit.run()
    assert not [topic for topic in link.asked if "/blob/" in topic]
    del link.retained[MARKER]
    audit.run()
    assert sorted(t for t in link.asked if "/blob/" in t) == sorted(blobs(link))


def test_what_was_restored_is_looked_at_again(audit, link):
    audit.run()
    topic = blobs(link)[0]
    del link.retained[topic]
    audit.forget()
    audit.run()
    link.asked.clear()
    audit.run()
    assert [name for name in link.asked if "/blob/" in name] == [topic]


def test_an_audit_that_broke_off_goes_on_where_it_was(audit, link, monkeypatch):
    monkeypatch.setattr(audit_module, "LOOK_AT_ONCE", 1)
    audit.forget()
    names = blobs(link)
    del link.retained[names[-1]]
    link.sent.clear()
    link.before_publish = lambda topic: (
        (_ for _ in ()).throw(BrokerError("gone")) if (topic == names[-1]) else None
    )
    with pytest.raises(BrokerError):
        audit.run()
    link.before_publish = lambda topic: None
    link.asked.clear()
    assert audit.run().restored == 1
    again = [topic for topic in link.asked if "/blob/" in topic]
    assert names[-1] in again
    assert len(again) < len(names)
    assert sorted(blobs(link)) == sorted(names)


def test_a_newer_release_that_comes_meanwhile_is_not_put_back(audit, link, made, shelf):
    timestamp = topics.document("timestamp.json", 0)
    link.retained[timestamp] = b"poison", {"parts": "1"}
    done = []

    def release(topic):
        if topic == timestamp and not done:
            done.append(True)
            made.repository().refresh_timestamp()
            publish_metadata(link, made.repository(), shelf=shelf)

    link.before_publish = release
    audit.run()
    name, newest = list(made.repository().documents())[-1]
    assert name == "timestamp.json"
    assert link.retained[timestamp][0] == newest


# What is no longer wanted.


def test_packages_that_are_neither_assigned_nor_new_are_cleared(audit, link, made, shelf):
    for number in range(5):
        shelf.add_package(f"other-{number}.json")
    result = audit.run()
    gone = {c.sha256 for c, _ in package_of(made, "2").wire_chunks()} - {
        c.sha256 for c, _ in package_of(made, "1").wire_chunks()
    }
    assert result.cleared == len(gone) + 1  # and its manifest
    assert not gone & {topic.rpartition("/")[2] for topic in link.retained}
    manifest = made.repository().targets()
    assert topics.document(manifest["demo-2.json"], 0) not in link.retained
    assert topics.document(manifest["demo-1.json"], 0) in link.retained
    assert audit.run().cleared == 0
    assign(link, made.repository(), "dev-2", "demo-2.json", shelf=Shelf("sqlite://"))
    assert topics.document(manifest["demo-2.json"], 0) in link.retained


def test_old_metadata_is_cleared(audit, link, made, shelf):
    versions = {topic for topic in link.retained if ".targets.json" in topic}
    made.repository().add_target(f"note-{time.monotonic_ns()}.json", b"{}")
    publish_metadata(link, made.repository(), shelf=shelf)
    audit.run()
    assert not versions & link.retained.keys()


def test_what_others_retain_is_not_touched(audit, link):
    link.retained["plant/temperature"] = b"21", {}
    link.retained[topics.status("dev-1")] = b"{}", {}
    audit.run()
    assert link.retained["plant/temperature"] == (b"21", {})
    assert topics.status("dev-1") in link.retained


def test_chunks_of_a_package_that_is_being_published_stay(audit, link, made, shelf, tmp_path):
    path = make_package(tmp_path, version="3", data=b"3" * 9999)
    path = path.rename(made.packages / path.name)
    try:
        seen = []

        def look(topic):
            if "/blob/" in topic and len(seen) < 1:
                seen.append(topic)
                link.before_publish = lambda topic: None
                audit.run()

        link.before_publish = look
        publish_package(link, made.repository(), open_package(path), shelf=shelf)
        for chunk, wire in open_package(path).wire_chunks():
            assert link.retained[topics.blob(chunk.sha256)][0] == wire
    finally:
        path.unlink()


def test_a_chunk_that_no_package_has_is_named(audit, link, made, shelf, caplog, tmp_path):
    path = make_package(tmp_path, version="4", data=b"4" * 9999)
    package = open_package(path)
    publish_package(link, made.repository(), package, shelf=shelf)
    own = {c.sha256 for c, _ in package.wire_chunks()} - {
        c.sha256 for c, _ in package_of(made, "1").wire_chunks()
    }
    audit.run()
    gone = topics.blob(min(own))
    del link.retained[gone]
    audit.forget()
    assert audit.run().lost == 1
    assert f"{gone} is gone, and no package here has it" in caplog.text


# Over brokers.


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_broker_is_mended(kind, made, shelf, tmp_path):
    with broker_of(kind, tmp_path / "broker") as broker, connected(broker, "host") as host:
        package = package_of(made, "1")
        publish_package(host, made.repository(), package, shelf=shelf)
        names = sorted(shelf.topics())
        audit = auditor(host, made, shelf)
        with Looking(host, timeout_s=5) as looking:
            assert looking.look(names).keys() == set(names)
            chunks = [name for name in names if "/blob/" in name]
            host.publish(chunks[0], b"", retain=True, wait_s=5)
            host.publish(chunks[1], b"poison", retain=True, wait_s=5)
            assert looking.look(names).keys() == set(names) - {chunks[0]}
        result = audit.run()
        assert result == AuditResult(looked=result.looked, restored=2, lost=0, cleared=0)
        assert audit.run().restored == 0


def test_a_broker_that_sends_nothing_back_is_an_error(link):
    link.publish = lambda *_, **__: None
    with (
        Looking(link, timeout_s=0.05) as looking,
        pytest.raises(TransferTimeoutError, match=r"sent nothing back within 0\.05 s"),
    ):
        looking.look([MARKER])
    assert not link.handlers


# The pure parts.


@given(
    published=st.lists(st.sampled_from("abcdef"), unique=True),
    assigned=st.sets(st.sampled_from("abcdef")),
    newest=st.integers(0, 8),
)
def test_assigned_and_newest_are_kept(published, assigned, newest):
    kept = kept_packages(published, assigned, newest=newest)
    assert assigned <= kept
    assert set(published[:newest]) <= kept
    assert len(kept) <= len(assigned) + newest


def an_assignment(device, counter, target="demo-1.json"):
    return Assignment(device=device, counter=counter, target=target, issued="", expires="")


def test_the_shelf_keeps_the_newest_of_everything(shelf):
    for target in ("a", "b", "a"):
        shelf.add_package(target)
    assert shelf.packages() == ["a", "b"]
    shelf.put(["t1", "t2"])
    shelf.put(["t2", "t3", "t3"])
    shelf.drop(["t1", "unknown"])
    assert shelf.topics() == {"t2", "t3"}
    shelf.put(f"many/{number}" for number in range(2000))
    shelf.drop(f"many/{number}" for number in range(2000))
    assert shelf.topics() == {"t2", "t3"}
    for counter, message in ((2, b"two"), (1, b"one"), (3, b"three"), (2, b"late")):
        shelf.assign(an_assignment("dev-1", counter), message)
    assert shelf.assignments() == [Assigned("dev-1", 3, "demo-1.json", b"three")]


def test_the_name_of_the_share_is_drawn_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'fleet.sqlite'}"
    first, second, other = Shelf(url), Shelf(url), Shelf("sqlite://")
    assert len(first.share) == 32
    assert first.share == second.share != other.share
    for shelf in (first, second, other):
        shelf.close()
