"""Trust against a repository that is made wrong on purpose."""

from __future__ import annotations

import copy
import hashlib
from datetime import datetime, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from support.tuf_simulator import TufSimulator, believe
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.messages import ASSIGNMENT_CONTEXT, Assignment, AssignmentKeys, Signed
from trimtab_agent.errors import (
    ExpiredError,
    FormatError,
    IntegrityError,
    NetworkError,
    StorageError,
    TransferTimeoutError,
    TrustError,
)
from trimtab_agent.fetcher import MAX_PARTS, MqttDocuments
from trimtab_agent.signed import verify_signed
from trimtab_agent.trust import DocumentFetcher, TrustStore
from trimtab_agent.window import WINDOW

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
ASSIGNMENT = Assignment(
    device="dev-1",
    counter=7,
    target="model-1.json",
    issued="2026-11-22T11:00:00Z",
    expires="2026-12-22T11:00:00Z",
)


@pytest.fixture
def simulator():
    return TufSimulator()


@pytest.fixture
def documents(simulator):
    return MqttDocuments(simulator.broker, timeout_s=0.05)


@pytest.fixture
def trust(simulator, tmp_path):
    return TrustStore(tmp_path / "trust", simulator.roots[0])


def test_a_released_target_is_fetched_and_verified(simulator, documents, trust):
    content = bytes(range(256)) * 20  # six parts
    simulator.release("model-1.json", content)
    assert trust.target(documents, "model-1.json") == content
    assert simulator.broker.open == set()


def test_nothing_above_the_hinted_root_is_asked_for(simulator, documents, trust):
    trust.refresh(documents)
    assert topics.document("2.root.json", 0) not in simulator.broker.asked


def test_rotated_roots_are_followed_and_kept(simulator, documents, trust, tmp_path):
    for _ in range(3):
        simulator.root.version += 1
        simulator.publish_root()
    trust.refresh(documents)
    kept = {path.name for path in (tmp_path / "trust" / "root_history").iterdir()}
    assert kept == {f"{version}.root.json" for version in range(1, 5)}


def test_a_key_that_was_rotated_out_is_refused(simulator, documents, trust):
    old = simulator.signers["timestamp"]
    simulator.root.revoke_key(old[0].public_key.keyid, "timestamp")
    simulator.signers["timestamp"] = [CryptoSigner.generate_ed25519()]
    simulator.root.add_key(simulator.signers["timestamp"][0].public_key, "timestamp")
    simulator.root.version += 1
    simulator.publish_root()
    simulator.publish()
    trust.refresh(documents)
    simulator.signers["timestamp"] = old
    simulator.timestamp.version += 1
    simulator.publish()
    with pytest.raises(TrustError, match="timestamp was signed by 0/1 keys"):
        trust.refresh(documents)


def wrong_key(simulator):
    simulator.signers["targets"] = [CryptoSigner.generate_ed25519()]
    simulator.release("x", b"x")


def expired(simulator):
    simulator.timestamp.expires = datetime(2020, 1, 1, tzinfo=timezone.utc)
    simulator.timestamp.version += 1
    simulator.publish()


def tampered_snapshot(simulator):
    simulator.release("x", b"x")
    topic = topics.document(f"{simulator.snapshot.version}.snapshot.json", 0)
    payload, properties = simulator.broker.retained[topic]
    simulator.broker.retained[topic] = payload.replace(b"1", b"2", 1), properties


def endless_timestamp(simulator):
    simulator.broker.publish_document("timestamp.json", bytes(100_000))


def no_json(simulator):
    simulator.broker.publish_document("timestamp.json", b"hello")


def missing_root(simulator):
    simulator.root.version += 1
    simulator.publish_root()
    del simulator.broker.retained[topics.document("2.root.json", 0)]


def missing_hint(simulator):
    del simulator.broker.retained[topics.ROOT_VERSION]


def bad_hint(simulator):
    simulator.broker.retained[topics.ROOT_VERSION] = b"-1", {}


def missing_timestamp(simulator):
    del simulator.broker.retained[topics.document("timestamp.json", 0)]


def missing_parts(simulator):
    payload, _ = simulator.broker.retained[topics.document("timestamp.json", 0)]
    simulator.broker.retained[topics.document("timestamp.json", 0)] = payload, {}


def too_many_parts(simulator):
    payload, _ = simulator.broker.retained[topics.document("timestamp.json", 0)]
    many = {"parts": str(MAX_PARTS + 1)}
    simulator.broker.retained[topics.document("timestamp.json", 0)] = payload, many


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (wrong_key, TrustError, "targets was signed by 0/1 keys"),
        (expired, ExpiredError, "timestamp.json is expired"),
        (tampered_snapshot, IntegrityError, "(?i)hash"),
        (endless_timestamp, IntegrityError, "exceeding the maximum allowed length"),
        (no_json, TrustError, "deserialize"),
        (missing_root, TransferTimeoutError, r"nothing came at trimtab/v1/doc/2.root.json/0"),
        (missing_hint, TransferTimeoutError, "nothing came at trimtab/v1/root-version within"),
        (bad_hint, FormatError, "holds b'-1', not a number"),
        (missing_timestamp, TransferTimeoutError, "nothing came at .*timestamp.json/0"),
        (missing_parts, FormatError, "parts='', not 1 to"),
        (too_many_parts, FormatError, "parts='129', not 1 to 128"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_metadata_is_refused(simulator, documents, trust, damage, kind, message):
    damage(simulator)
    with pytest.raises(kind, match=message):
        trust.refresh(documents)
    assert simulator.broker.open == set()


def test_a_rollback_to_older_metadata_is_refused_also_after_a_restart(
    simulator, documents, trust, tmp_path
):
    old = copy.deepcopy(simulator.broker.retained)
    simulator.release("model-2.json", b"new")
    trust.refresh(documents)
    simulator.broker.retained = old
    again = TrustStore(tmp_path / "trust", simulator.roots[0])
    with pytest.raises(TrustError, match="must be >= 2"):
        again.refresh(documents)


def test_metadata_torn_by_a_power_cut_is_fetched_again(simulator, documents, trust, tmp_path):
    trust.refresh(documents)
    for path in (tmp_path / "trust").glob("*.json"):
        if not path.is_symlink():
            path.write_bytes(b"")
    again = TrustStore(tmp_path / "trust", simulator.roots[0])
    again.refresh(documents)


def test_what_a_killed_run_left_is_removed(simulator, tmp_path):
    directory = tmp_path / "trust"
    directory.mkdir()
    (directory / "tmpabc123").write_bytes(b"half")
    TrustStore(directory, simulator.roots[0])
    assert list(directory.iterdir()) == []


def test_a_tampered_target_is_refused(simulator, documents, trust):
    simulator.release("model-1.json", b"good")
    digest = hashlib.sha256(b"good").hexdigest()
    simulator.broker.publish_document(digest, b"evil")
    with pytest.raises(IntegrityError, match=r"TUF target 'model-1\.json'"):
        trust.target(documents, "model-1.json")


def test_a_target_that_was_never_released_is_refused(simulator, documents, trust):
    with pytest.raises(TrustError, match=r"'ghost\.json' is not among the repository's signed"):
        trust.target(documents, "ghost.json")


def test_another_repositorys_root_is_refused(documents, tmp_path):
    stranger = TrustStore(tmp_path / "trust", TufSimulator().roots[0])
    with pytest.raises(TrustError, match="signed by 0/1 keys"):
        stranger.refresh(documents)


def test_an_initial_root_that_is_none_is_refused(documents, tmp_path):
    with pytest.raises(TrustError):
        TrustStore(tmp_path / "trust", b"junk").refresh(documents)


def test_a_disk_that_refuses_is_a_storage_error(documents, trust, tmp_path):
    (tmp_path / "trust").rmdir()
    (tmp_path / "trust").write_bytes(b"a file in the way")
    with pytest.raises(StorageError, match="keeping the repository's metadata failed"):
        trust.refresh(documents)


def test_an_unknown_failure_of_a_fetcher_is_a_network_error(documents, trust):
    class Broken(DocumentFetcher):
        def _fetch(self, url):
            raise RuntimeError("cable cut")

    with pytest.raises(NetworkError, match="cannot be fetched"):
        trust.open(Broken(documents), "https://example.org")


def test_parts_that_come_out_of_order_are_put_in_order(simulator):
    content = bytes(range(200)) * 100
    simulator.broker.publish_document("doc", content, part_bytes=500)

    class Backwards:
        def subscribe_many(self, names, handler):
            simulator.broker.subscribe_many(list(reversed(names)), handler)

        def unsubscribe(self, *names):
            simulator.broker.unsubscribe(*names)

    assert b"".join(MqttDocuments(Backwards(), timeout_s=0.05).read("doc")) == content
    assert simulator.broker.most_open <= WINDOW


def test_an_assignment_is_verified_with_the_keys_the_repository_lists(simulator, documents, trust):
    signed = simulator.assign(ASSIGNMENT)
    got = believe(trust, documents, signed, device="dev-1", now=NOW)
    assert got == ASSIGNMENT


def check(message, keys, *, device, now):
    return verify_signed(
        message, keys, what="the assignment", context=ASSIGNMENT_CONTEXT, device=device, now=now
    )


def keys_of(simulator):
    return codec.decode(simulator.contents["assignment-keys.json"], AssignmentKeys, what="the keys")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "dev-2"}, "the assignment is for 'dev-2'; this is 'dev-1'"),
        ({"expires": "2026-11-22T12:00:00Z"}, "expired at 2026-11-22T12:00:00Z; the clock here"),
        ({"expires": "soon"}, "expiry 'soon' is no time"),
        ({"expires": "2027-01-01T00:00:00"}, "expiry '2027-01-01T00:00:00' is no time"),
    ],
)
def test_assignments_that_are_not_for_here_and_now(simulator, change, message):
    changed = codec.decode(
        codec.encode({**codec.decode(codec.encode(ASSIGNMENT), dict, what="a"), **change}),
        Assignment,
        what="a",
    )
    with pytest.raises(TrustError, match=message):
        check(simulator.assign(changed), keys_of(simulator), device="dev-1", now=NOW)


def test_an_assignment_by_another_key_is_refused(simulator):
    signed = simulator.assign(ASSIGNMENT, key=Ed25519PrivateKey.generate())
    with pytest.raises(TrustError, match="no good signature"):
        check(signed, keys_of(simulator), device="dev-1", now=NOW)


def test_a_signature_without_the_context_is_refused(simulator):
    good = codec.decode(simulator.assign(ASSIGNMENT), Signed, what="signed")
    bare = simulator.assignment_key.sign(good.payload)
    entry = type(good.signatures[0])(keyid=simulator.assignment_keyid, signature=bare)
    forged = codec.encode(Signed(payload=good.payload, signatures=(entry,)))
    with pytest.raises(TrustError, match="no good signature"):
        check(forged, keys_of(simulator), device="dev-1", now=NOW)


def test_a_listed_key_of_the_wrong_length_is_passed_over(simulator):
    keys = AssignmentKeys(keys={simulator.assignment_keyid: b"short"})
    with pytest.raises(TrustError, match="no good signature"):
        check(simulator.assign(ASSIGNMENT), keys, device="dev-1", now=NOW)


def test_an_assignment_that_is_no_json(simulator):
    with pytest.raises(FormatError, match="the assignment cannot be read as Signed"):
        check(b"{", keys_of(simulator), device="dev-1", now=NOW)
