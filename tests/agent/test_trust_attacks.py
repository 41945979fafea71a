"""Attacks on updates, one test each, on a device that has already seen an honest release.

The names are those of The Update Framework's specification, section 1.5.2. Who attacks has the
broker: they can hold back, replay, change and invent whatever a device reads. Where the attack
needs more, such as an online key, its function says so. After each attack the honest repository
comes back, and the device must believe it again: an attack may stop updates, but not for ever.

Each attack runs on `TrustStore` in this process; `slow` ones run again through the real child.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES

from support.tuf_simulator import TufSimulator, believe
from trimtab_agent import bounded_documents
from trimtab_agent.bounded_documents import GRACE_S, MIN_BYTES_PER_S, BoundedDocuments
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.commands import COMMAND_CONTEXT
from trimtab_agent.contract.layout import MAX_DOCUMENT_BYTES
from trimtab_agent.contract.messages import ASSIGNMENT_CONTEXT, Assignment, Signature, Signed
from trimtab_agent.errors import (
    ExpiredError,
    FormatError,
    IntegrityError,
    TransferTimeoutError,
    TrustError,
)
from trimtab_agent.fetcher import MAX_PARTS, MqttDocuments
from trimtab_agent.trust import TrustStore
from trimtab_agent.verifier import Verifier

NAME, CONTENT = "model-1.json", b"honest manifest" * 100
PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


class Scene:
    """A simulator whose honest state can be brought back."""

    def __init__(self) -> None:
        self.simulator = TufSimulator()
        self.documents = MqttDocuments(self.simulator.broker, timeout_s=0.02)
        self.first = dict(self.simulator.broker.retained)
        """What the broker had before the release that the device has seen."""
        self.simulator.release(NAME, CONTENT)
        simulator = self.simulator
        self._roles = {
            role: copy.deepcopy(getattr(simulator, role)) for role in TOP_LEVEL_ROLE_NAMES
        }
        self._signers = {role: list(signers) for role, signers in simulator.signers.items()}
        self._retained = dict(simulator.broker.retained)
        self.newest_root = 1
        """Of those that the device may rightly have seen."""

    def end_attack(self) -> None:
        """The broker has again what the honest repository had put there."""
        self.simulator.broker.retained = dict(self._retained)

    def release_next(self) -> None:
        """The honest repository publishes, under versions above anything that was seen."""
        for role in ("targets", "snapshot", "timestamp"):
            setattr(self.simulator, role, copy.deepcopy(self._roles[role]))
            getattr(self.simulator, role).version += 10
        self.simulator.root = copy.deepcopy(self._roles["root"])
        self.simulator.signers = {role: list(them) for role, them in self._signers.items()}
        if self.newest_root > self.simulator.root.version:
            self.simulator.root.version = self.newest_root + 1
            self.simulator.publish_root()
        self.simulator.publish()


@pytest.fixture
def scene():
    return Scene()


def replace(simulator, name: str, change) -> None:
    """Changes the JSON of a published document."""
    value = json.loads(simulator.documents()[name])
    change(value)
    simulator.broker.publish_document(name, json.dumps(value).encode())


def newest(simulator, role: str) -> str:
    return (
        "timestamp.json"
        if role == "timestamp"
        else f"{getattr(simulator, role).version}.{role}.json"
    )


def bump(simulator, *roles: str) -> None:
    for role in roles:
        getattr(simulator, role).version += 1


# Rollback


def rollback_of_the_timestamp(scene):
    topic = topics.document("timestamp.json", 0)
    scene.simulator.broker.retained[topic] = scene.first[topic]


def rollback_of_the_snapshot(scene):
    """With the timestamp key."""
    scene.simulator.snapshot.version -= 1
    bump(scene.simulator, "timestamp")
    scene.simulator.publish()


def rollback_of_targets_inside_the_snapshot(scene):
    """With the timestamp and the snapshot key."""
    scene.simulator.targets.version -= 1
    bump(scene.simulator, "snapshot", "timestamp")
    scene.simulator.publish()


def targets_left_out_of_the_snapshot(scene):
    """With the timestamp and the snapshot key."""
    simulator = scene.simulator
    bump(simulator, "snapshot", "timestamp")
    publish = simulator.sign
    simulator.sign = lambda role, signed: (
        signed.meta.clear() or publish(role, signed)
        if role == "snapshot"
        else publish(role, signed)
    )
    simulator.publish()
    simulator.sign = publish


# Freeze


def freeze(role: str):
    def attack(scene):
        """Everything newer is held back until what was seen has expired."""
        simulator = scene.simulator
        getattr(simulator, role).expires = PAST
        if role == "root":
            bump(simulator, "root")
            simulator.publish_root()
            scene.newest_root = simulator.root.version
        bump(simulator, *{"snapshot", "timestamp", role} - {"root"})
        simulator.publish()

    attack.__name__ = f"freeze_by_{role}"
    return attack


# Mix and match


def an_old_snapshot_under_a_new_name(scene):
    simulator = scene.simulator
    old = simulator.documents()[newest(simulator, "snapshot")]
    simulator.release("other.json", b"newer")
    simulator.broker.publish_document(newest(simulator, "snapshot"), old)


def old_targets_under_a_new_name(scene):
    simulator = scene.simulator
    old = simulator.documents()[newest(simulator, "targets")]
    simulator.release("other.json", b"newer")
    simulator.broker.publish_document(newest(simulator, "targets"), old)


# Keys and signatures


def foreign_key(role: str):
    def attack(scene):
        scene.simulator.signers[role] = [CryptoSigner.generate_ed25519()]
        scene.simulator.release("other.json", b"newer")

    attack.__name__ = f"{role}_by_a_foreign_key"
    return attack


def timestamp_by_the_key_of_another_role(scene):
    scene.simulator.signers["timestamp"] = scene.simulator.signers["snapshot"]
    scene.simulator.release("other.json", b"newer")


def a_wrong_signature(scene):
    scene.simulator.release("other.json", b"newer")

    def turn(metadata):
        signature = metadata["signatures"][0]["sig"]
        metadata["signatures"][0]["sig"] = ("1" if signature[0] == "0" else "0") + signature[1:]

    replace(scene.simulator, "timestamp.json", turn)


def no_signature(scene):
    scene.simulator.release("other.json", b"newer")
    replace(scene.simulator, "timestamp.json", lambda metadata: metadata["signatures"].clear())


def a_changed_body(scene):
    scene.simulator.release("other.json", b"newer")
    name = newest(scene.simulator, "targets")
    replace(scene.simulator, name, lambda value: value["signed"]["targets"].clear())


# Roots


def rotate(simulator, *, signed_by) -> None:
    """Publishes a root with a new root key."""
    old = simulator.signers["root"][0]
    new = CryptoSigner.generate_ed25519()
    simulator.root.revoke_key(old.public_key.keyid, "root")
    simulator.root.add_key(new.public_key, "root")
    bump(simulator, "root")
    simulator.signers["root"] = {"old": [old], "new": [new], "both": [old, new]}[signed_by]
    simulator.publish_root()
    simulator.signers["root"] = [new]


def a_root_that_only_its_own_key_has_signed(scene):
    rotate(scene.simulator, signed_by="new")


def a_root_that_only_the_old_key_has_signed(scene):
    rotate(scene.simulator, signed_by="old")


def a_root_whose_number_is_not_its_names(scene):
    """With the root key."""
    simulator = scene.simulator
    simulator.root.version = 3
    simulator.broker.publish_document("2.root.json", simulator.sign("root", simulator.root))
    simulator.broker.retained[topics.ROOT_VERSION] = b"2", {}


def a_gap_between_roots(scene):
    rotate(scene.simulator, signed_by="both")
    rotate(scene.simulator, signed_by="both")
    del scene.simulator.broker.retained[topics.document("2.root.json", 0)]


# Endless data


def endless(role: str):
    def attack(scene):
        scene.simulator.release("other.json", b"newer")
        name = newest(scene.simulator, role)
        scene.documents = Endless(scene.documents, name)

    attack.__name__ = f"endless_{role}"
    return attack


def endless_root(scene):
    scene.simulator.broker.retained[topics.ROOT_VERSION] = b"2", {}
    scene.documents = Endless(scene.documents, "2.root.json")


def endless_target(scene):
    scene.documents = Endless(scene.documents, hashlib.sha256(CONTENT).hexdigest())


def a_target_of_a_huge_length(scene):
    """With the targets key: even the owner of all keys cannot fill a device's disk."""
    scene.simulator.targets.targets[NAME].length = MAX_DOCUMENT_BYTES + 1
    bump(scene.simulator, "targets", "snapshot", "timestamp")
    scene.simulator.publish()


def parts_claimed(value: str):
    def attack(scene):
        topic = topics.document("timestamp.json", 0)
        payload, _ = scene.simulator.broker.retained[topic]
        scene.simulator.broker.retained[topic] = payload, {"parts": value}

    attack.__name__ = f"parts_claimed_{value[:9]}"
    return attack


class Endless:
    """Documents of another source; one of them never ends."""

    def __init__(self, source, name: str) -> None:
        self._source, self._name = source, name
        self.sent_bytes = 0

    def read(self, name: str) -> Iterator[bytes]:
        if name != self._name:
            yield from self._source.read(name)
            return
        while True:
            self.sent_bytes += 1 << 16
            yield bytes(1 << 16)


# Arbitrary content


def another_content(scene):
    digest = hashlib.sha256(CONTENT).hexdigest()
    scene.simulator.broker.publish_document(digest, b"X" * len(CONTENT))


def the_content_of_another_target(scene):
    keys = scene.simulator.contents["assignment-keys.json"]
    digest = hashlib.sha256(CONTENT).hexdigest()
    scene.simulator.broker.publish_document(digest, keys)


# The hint


def hint(value: bytes):
    def attack(scene):
        scene.simulator.broker.retained[topics.ROOT_VERSION] = value, {}

    attack.__name__ = f"hint_{value[:12].decode()}"
    return attack


ATTACKS = [
    (rollback_of_the_timestamp, TrustError, "must be >= 2"),
    (rollback_of_the_snapshot, TrustError, "snapshot version must be >= 2"),
    (
        rollback_of_targets_inside_the_snapshot,
        TrustError,
        r"Expected targets.json version 1, got 2",
    ),
    (targets_left_out_of_the_snapshot, TrustError, "missing info for 'targets.json'"),
    (freeze("timestamp"), ExpiredError, "timestamp.json is expired"),
    (freeze("snapshot"), ExpiredError, "snapshot.json is expired"),
    (freeze("targets"), ExpiredError, "targets is expired"),
    (freeze("root"), ExpiredError, "root.json is expired"),
    (an_old_snapshot_under_a_new_name, IntegrityError, "(?i)hash|length"),
    (old_targets_under_a_new_name, TrustError, "Expected targets v3, got v2"),
    (foreign_key("timestamp"), TrustError, "timestamp was signed by 0/1 keys"),
    (foreign_key("snapshot"), TrustError, "snapshot was signed by 0/1 keys"),
    (foreign_key("targets"), TrustError, "targets was signed by 0/1 keys"),
    (timestamp_by_the_key_of_another_role, TrustError, "timestamp was signed by 0/1 keys"),
    (a_wrong_signature, TrustError, "timestamp was signed by 0/1 keys"),
    (no_signature, TrustError, "timestamp was signed by 0/1 keys"),
    (a_changed_body, TrustError, "targets was signed by 0/1 keys"),
    (a_root_that_only_its_own_key_has_signed, TrustError, "root was signed by 0/1 keys"),
    (a_root_that_only_the_old_key_has_signed, TrustError, "root was signed by 0/1 keys"),
    (a_root_whose_number_is_not_its_names, TrustError, "Expected root version 2"),
    (a_gap_between_roots, TransferTimeoutError, "2.root.json"),
    (endless("timestamp"), IntegrityError, "exceeding the maximum allowed length of 16384"),
    (endless("snapshot"), IntegrityError, "exceeding the maximum allowed length"),
    (endless("targets"), IntegrityError, "exceeding the maximum allowed length of 5000000"),
    (endless_root, IntegrityError, "exceeding the maximum allowed length of 512000"),
    (endless_target, IntegrityError, f"exceeding the maximum allowed length of {len(CONTENT)}"),
    (a_target_of_a_huge_length, IntegrityError, f"at most {MAX_DOCUMENT_BYTES} bytes"),
    (parts_claimed(str(MAX_PARTS + 1)), FormatError, f"not 1 to {MAX_PARTS}"),
    (parts_claimed("9" * 5000), FormatError, f"not 1 to {MAX_PARTS}"),
    (parts_claimed("-1"), FormatError, f"not 1 to {MAX_PARTS}"),
    (another_content, IntegrityError, "(?i)hash"),
    (the_content_of_another_target, IntegrityError, "(?i)length|hash"),
    (hint(b"999999999"), TransferTimeoutError, "2.root.json"),
    (hint(b"9" * 10_000), FormatError, "not a number"),
    (hint(b"two"), FormatError, "not a number"),
    (hint(b""), FormatError, "not a number"),
]
"""Attack, what is raised, and what the message says."""

IN_A_CHILD = [
    attack
    for attack in ATTACKS
    if attack[0].__name__
    in {
        "rollback_of_the_timestamp",
        "freeze_by_timestamp",
        "old_targets_under_a_new_name",
        "targets_by_a_foreign_key",
        "a_root_that_only_its_own_key_has_signed",
        "endless_targets",
        "a_target_of_a_huge_length",
        "another_content",
        "hint_two",
    }
]


def named(value: object) -> str | None:
    return (
        getattr(value, "__name__", None) if callable(value) and not isinstance(value, type) else ""
    )


def check(scene, trust, trust_dir, attack, kind, message) -> None:
    """The device saw an honest release; the attack is refused; honest ones are believed again."""
    assert trust.target(scene.documents, NAME) == CONTENT
    honest, held = scene.documents, state_of(trust_dir)
    attack(scene)
    with pytest.raises(kind, match=message):
        trust.target(scene.documents, NAME)
    assert getattr(scene.documents, "sent_bytes", 0) <= 6 << 20
    assert scene.simulator.broker.open == set()
    scene.end_attack()
    if state_of(trust_dir) == held:  # else it has seen something that was newer and rightly signed
        assert trust.target(honest, NAME) == CONTENT
    scene.release_next()
    assert trust.target(honest, NAME) == CONTENT


def state_of(trust_dir) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in trust_dir.rglob("*.json")}


@pytest.mark.parametrize(("attack", "kind", "message"), ATTACKS, ids=named)
def test_an_attack_is_refused(scene, tmp_path, attack, kind, message):
    trust = TrustStore(tmp_path / "trust", scene.simulator.roots[0])
    check(scene, trust, tmp_path / "trust", attack, kind, message)


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "kind", "message"), IN_A_CHILD, ids=named)
def test_an_attack_is_refused_by_the_child(scene, tmp_path, attack, kind, message):
    trust = Verifier(tmp_path / "trust", scene.simulator.roots[0])
    check(scene, trust, tmp_path / "trust", attack, kind, message)


# What is no error


def test_a_hint_that_is_too_low_hides_no_more_than_the_root_itself(scene, tmp_path):
    scene.simulator.broker.retained[topics.ROOT_VERSION] = b"0", {}
    trust = TrustStore(tmp_path / "trust", scene.simulator.roots[0])
    assert trust.target(scene.documents, NAME) == CONTENT


def test_a_stolen_online_key_that_ran_ahead_is_recovered_from_by_a_new_root(scene, tmp_path):
    """Fast forward: versions so high that the honest repository could never come after them."""
    simulator = scene.simulator
    trust = TrustStore(tmp_path / "trust", simulator.roots[0])
    for role in ("timestamp", "snapshot", "targets"):
        getattr(simulator, role).version = 2**31
    simulator.publish()
    assert trust.target(scene.documents, NAME) == CONTENT
    for role in ("timestamp", "snapshot", "targets"):
        getattr(simulator, role).version = 3
    simulator.publish()
    with pytest.raises(TrustError, match="must be >= 2147483648"):
        trust.target(scene.documents, NAME)
    for role in ("timestamp", "snapshot"):
        (stolen,) = simulator.signers[role]
        simulator.root.revoke_key(stolen.public_key.keyid, role)
        simulator.signers[role] = [CryptoSigner.generate_ed25519()]
        simulator.root.add_key(simulator.signers[role][0].public_key, role)
    bump(simulator, "root")
    simulator.publish_root()
    simulator.publish()
    assert trust.target(scene.documents, NAME) == CONTENT


def test_a_gap_between_roots_that_is_told_as_missing_leaves_the_old_root(scene, tmp_path):
    """Over HTTP and from folders a root that is not there is none; a broker cannot say so."""
    a_gap_between_roots(scene)
    scene.simulator.broker.retained[topics.ROOT_VERSION] = b"1", {}
    trust = TrustStore(tmp_path / "trust", scene.simulator.roots[0])
    assert trust.refresh(scene.documents) is not None
    kept = {path.name for path in (tmp_path / "trust" / "root_history").iterdir()}
    assert kept == {"1.root.json"}


# Thresholds


@pytest.fixture
def of_two(scene):
    """A repository whose targets need two signatures, of keys that both have signed so far."""
    simulator = scene.simulator
    second = CryptoSigner.generate_ed25519()
    simulator.root.add_key(second.public_key, "targets")
    simulator.root.roles["targets"].threshold = 2
    bump(simulator, "root")
    simulator.publish_root()
    simulator.signers["targets"].append(second)
    simulator.release("both.json", b"by two")
    return simulator


def test_one_signature_of_two_is_not_enough(scene, of_two, tmp_path):
    trust = TrustStore(tmp_path / "trust", of_two.roots[0])
    assert trust.target(scene.documents, "both.json") == b"by two"
    of_two.signers["targets"].pop()
    of_two.release("one.json", b"by one")
    with pytest.raises(TrustError, match="targets was signed by 1/2 keys"):
        trust.target(scene.documents, "one.json")


def test_one_key_that_signs_twice_is_one_key(scene, of_two, tmp_path):
    of_two.signers["targets"].pop()
    of_two.release("one.json", b"by one")
    name = newest(of_two, "targets")
    replace(of_two, name, lambda value: value["signatures"].append(value["signatures"][0]))
    trust = TrustStore(tmp_path / "trust", of_two.roots[0])
    with pytest.raises(TrustError, match="deserialize"):
        trust.target(scene.documents, "one.json")


# Slow retrieval


class Dripping:
    """One byte at a time; `pass_time` says how long each takes."""

    def __init__(self, pass_time) -> None:
        self._pass_time = pass_time

    def read(self, name: str) -> Iterator[bytes]:
        while True:
            self._pass_time()
            yield b"x"


def test_a_source_that_drips_is_given_up_and_a_slow_one_is_not():
    now = [0.0]

    def wait(seconds: float):
        now[0] += seconds

    def clock() -> float:
        return now[0]

    dripping = BoundedDocuments(Dripping(lambda: wait(20.0)), clock=clock)
    with pytest.raises(TransferTimeoutError, match="slower than 1000 bytes/s is given up"):
        list(dripping.read("timestamp.json"))
    assert now[0] <= GRACE_S + 21

    class Slow:
        def read(self, name: str) -> Iterator[bytes]:
            for _ in range(1000):
                wait(1.0)
                yield bytes(MIN_BYTES_PER_S)

    assert len(list(BoundedDocuments(Slow(), clock=clock).read("targets.json"))) == 1000


@pytest.mark.slow
def test_the_agent_gives_a_dripping_source_up_while_the_child_waits(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_documents, "GRACE_S", 0.2)
    trust = Verifier(tmp_path / "trust", scene.simulator.roots[0])
    with pytest.raises(TransferTimeoutError, match="is given up"):
        trust.target(Dripping(lambda: time.sleep(0.02)), NAME)


@pytest.mark.parametrize("name", ["../root-version", "a/b", ".hidden", "", "x" * 200, "a%2Fb"])
def test_names_that_could_leave_a_folder_are_never_read(name):
    with pytest.raises(FormatError, match="cannot name a document"):
        list(BoundedDocuments(Dripping(lambda: None)).read(name))


# Signed messages

ASSIGNMENT = Assignment(
    device="dev-1",
    counter=7,
    target=NAME,
    issued="2026-11-22T11:00:00Z",
    expires="2026-12-22T11:00:00Z",
)


def signed_by_a_tuf_key(simulator) -> bytes:
    """By the targets key, which may sign metadata, under its own id and the right one."""
    payload = codec.encode(ASSIGNMENT)
    (signer,) = simulator.signers["targets"]
    made = signer.sign(ASSIGNMENT_CONTEXT + payload)
    raw = bytes.fromhex(made.signature)
    ids = (made.keyid, simulator.assignment_keyid)
    return codec.encode(
        Signed(
            payload=payload,
            signatures=tuple(Signature(keyid=keyid, signature=raw) for keyid in ids),
        )
    )


def without_signatures(simulator) -> bytes:
    return codec.encode(Signed(payload=codec.encode(ASSIGNMENT), signatures=()))


def with_a_changed_payload(simulator) -> bytes:
    good = codec.decode(simulator.assign(ASSIGNMENT), Signed, what="it")
    payload = good.payload.replace(b"model-1.json", b"model-0.json")
    return codec.encode(Signed(payload=payload, signatures=good.signatures))


def for_another_device(simulator) -> bytes:
    return simulator.assign(msgspec.structs.replace(ASSIGNMENT, device="dev-2"))


def expired(simulator) -> bytes:
    return simulator.assign(msgspec.structs.replace(ASSIGNMENT, expires="2026-11-22T11:59:59Z"))


def a_bare_assignment(simulator) -> bytes:
    return codec.encode(ASSIGNMENT)


def deep_json(simulator) -> bytes:
    return b"[" * 100_000


MESSAGES = [
    (signed_by_a_tuf_key, TrustError, "no good signature by a key the repository lists"),
    (without_signatures, TrustError, "no good signature"),
    (with_a_changed_payload, TrustError, "no good signature"),
    (for_another_device, TrustError, "is for 'dev-2'; this is 'dev-1'"),
    (expired, ExpiredError, "expired at 2026-11-22T11:59:59Z; the clock here says 2026-11-22T12"),
    (a_bare_assignment, FormatError, "cannot be read as Signed"),
    (deep_json, FormatError, "cannot be read as Signed"),
]


@pytest.mark.parametrize(("forge", "kind", "message"), MESSAGES, ids=named)
def test_a_forged_assignment_is_refused(scene, tmp_path, forge, kind, message):
    trust = TrustStore(tmp_path / "trust", scene.simulator.roots[0])
    with pytest.raises(kind, match=message):
        believe(trust, scene.documents, forge(scene.simulator), device="dev-1", now=NOW)
    good = scene.simulator.assign(ASSIGNMENT)
    assert believe(trust, scene.documents, good, device="dev-1", now=NOW) == ASSIGNMENT


def test_a_signature_for_a_command_is_none_for_an_assignment(scene, tmp_path):
    payload = codec.encode(ASSIGNMENT)
    made = scene.simulator.assignment_key.sign(COMMAND_CONTEXT + payload)
    entry = Signature(keyid=scene.simulator.assignment_keyid, signature=made)
    message = codec.encode(Signed(payload=payload, signatures=(entry,)))
    trust = TrustStore(tmp_path / "trust", scene.simulator.roots[0])
    with pytest.raises(TrustError, match="no good signature"):
        believe(trust, scene.documents, message, device="dev-1", now=NOW)


def test_an_assignment_key_that_was_replaced_signs_nothing_more(scene, tmp_path):
    simulator = scene.simulator
    trust = TrustStore(tmp_path / "trust", simulator.roots[0])
    old = simulator.assign(ASSIGNMENT)
    assert believe(trust, scene.documents, old, device="dev-1", now=NOW) == ASSIGNMENT
    simulator.replace_assignment_key()
    with pytest.raises(TrustError, match="no good signature"):
        believe(trust, scene.documents, old, device="dev-1", now=NOW)
    new = simulator.assign(ASSIGNMENT)
    assert believe(trust, scene.documents, new, device="dev-1", now=NOW) == ASSIGNMENT


@pytest.mark.slow
@pytest.mark.parametrize(("forge", "kind", "message"), MESSAGES, ids=named)
def test_a_forged_assignment_is_refused_by_the_child(scene, tmp_path, forge, kind, message):
    trust = Verifier(tmp_path / "trust", scene.simulator.roots[0])
    with pytest.raises(kind, match=message):
        believe(trust, scene.documents, forge(scene.simulator), device="dev-1", now=NOW)
