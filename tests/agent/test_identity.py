"""Enrolment and renewal on the device: what is on its disk after each step, and after none."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from support.identity import ROOT, Site, utc_now
from trimtab.fleet.authority import Authority
from trimtab_agent import enrol as enrolment
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.enrolment import EnrolmentAnswer, encode_token
from trimtab_agent.enrol import enrol
from trimtab_agent.errors import (
    BrokerError,
    CallerError,
    IdentityError,
    TransferTimeoutError,
    TrustError,
)
from trimtab_agent.identity import Identity
from trimtab_agent.identity_child import answer
from trimtab_agent.renewal import DAY_S, RETRY_S, Question, Renewal, Reply, describe_trouble

DEVICE = "dev-a"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    with site.answering():
        yield site
    site.close()


def whole(state: Path) -> x509.Certificate:
    """Checks that key and certificate belong together; returns the certificate."""
    identity = Identity(state)
    certificate = x509.load_pem_x509_certificate((identity.path / "device.pem").read_bytes())
    key = serialization.load_pem_private_key((identity.path / "device.key").read_bytes(), None)
    assert key.public_key() == certificate.public_key()
    names = {file.name for file in identity.path.iterdir()}
    assert names == {"device.key", "device.pem", "ca.pem", "1.root.json", "broker", "token"}
    assert (identity.path / "device.key").stat().st_mode & 0o777 == 0o600
    return certificate


def test_a_token_is_all_that_a_device_needs(site, tmp_path):
    token = site.token(DEVICE)
    got, lifetime = enrol(tmp_path, DEVICE, encode_token(token))
    assert got == token
    assert lifetime.ends == whole(tmp_path).not_valid_after_utc
    identity = Identity(tmp_path)
    assert identity.root_path.read_bytes() == ROOT
    assert identity.broker_url == site.url
    with site.link(identity.tls_files, "enrolled") as link:
        link.publish(topics.status(DEVICE), b"", wait_s=5)


@pytest.mark.parametrize("step", ["the request", "the answer", "the root", "the certificate"])
def test_a_device_that_is_killed_repeats_with_the_same_key(site, tmp_path, monkeypatch, step):
    token = encode_token(site.token(DEVICE))
    real = enrolment.accept_certificate

    def killed(*arguments):
        if step == "the certificate":
            real(*arguments)
        raise KeyboardInterrupt

    def lost(files, token, request):
        if step == "the answer":
            assert real_ask(files, token, request).certificate
        raise KeyboardInterrupt

    real_ask = enrolment._ask
    if step in {"the root", "the certificate"}:
        monkeypatch.setattr(enrolment, "accept_certificate", killed)
    else:
        monkeypatch.setattr(enrolment, "_ask", lost)
    with pytest.raises(KeyboardInterrupt):
        enrol(tmp_path, DEVICE, token)
    monkeypatch.undo()
    key = (tmp_path / "identity" / "enrolling" / "device.key").read_bytes()
    if step == "the certificate":
        Identity(tmp_path).settle()  # as `trimtab-agent run` does
    else:
        enrol(tmp_path, DEVICE, token)
    whole(tmp_path)
    assert (tmp_path / "identity" / "device.key").read_bytes() == key


def test_the_same_token_once_more_changes_nothing(site, tmp_path):
    # With a new key the host would call it stolen, and have somebody revoke the device.
    token = encode_token(site.token(DEVICE))
    first = enrol(tmp_path, DEVICE, token)
    before = whole_files(tmp_path)
    assert enrol(tmp_path, DEVICE, token) == first
    assert whole_files(tmp_path) == before
    enrol(tmp_path, DEVICE, encode_token(site.token(DEVICE)))
    assert whole_files(tmp_path)["device.key"] != before["device.key"]


def test_a_second_device_cannot_use_the_token(site, tmp_path):
    token = encode_token(site.token(DEVICE))
    enrol(tmp_path / "one", DEVICE, token)
    with pytest.raises(IdentityError, match="was used by another key"):
        enrol(tmp_path / "two", DEVICE, token)
    assert not (tmp_path / "two" / "identity" / "device.pem").exists()


def expired(site):
    token = site.token(DEVICE, valid=timedelta(milliseconds=1))
    return msgspec.structs.replace(token, expires="2020-01-01T00:00:00+00:00")


def withdrawn(site):
    token = site.token("dev-w")
    site.registry.revoke("dev-w", utc_now())
    site.tend()
    return msgspec.structs.replace(token, device=DEVICE)


def with_other_authority(site):
    other = Authority.open(site.path / "other")
    der = other.certificate.public_bytes(serialization.Encoding.DER)
    return msgspec.structs.replace(site.token(DEVICE), ca=der)


BAD_TOKENS = {
    "for another device": (lambda site: site.token("dev-b"), CallerError, "for the device 'dev-b'"),
    "expired": (expired, IdentityError, "does not know this token: it expired at 2020"),
    "withdrawn": (withdrawn, IdentityError, "it was withdrawn, or never made there"),
    "another authority": (with_other_authority, BrokerError, "not the broker that this side trust"),
    "no authority": (
        lambda site: msgspec.structs.replace(site.token(DEVICE), ca=b"x"),
        IdentityError,
        "no usable certificate",
    ),
    "another root": (
        lambda site: msgspec.structs.replace(site.token(DEVICE), root_sha256=bytes(32)),
        TrustError,
        "not the one that the token names",
    ),
    "nobody there": (
        lambda site: msgspec.structs.replace(site.token(DEVICE), enrolment="mqtts://127.0.0.1:1"),
        BrokerError,
        "cannot reach the broker",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token_leaves_the_present_identity_alone(site, tmp_path, name):
    enrol(tmp_path, DEVICE, encode_token(site.token(DEVICE)))
    before = whole_files(tmp_path)
    make, kind, words = BAD_TOKENS[name]
    with pytest.raises(kind, match=words):
        enrol(tmp_path, DEVICE, encode_token(make(site)))
    Identity(tmp_path).settle()
    assert whole_files(tmp_path) == before
    enrol(tmp_path, DEVICE, encode_token(site.token(DEVICE)))
    whole(tmp_path)


def whole_files(state: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in Identity(state).path.iterdir() if file.is_file()
    }


def test_a_token_that_is_not_whole_is_refused(site, tmp_path):
    with pytest.raises(IdentityError, match="copy it again, all of it"):
        enrol(tmp_path, DEVICE, encode_token(site.token(DEVICE))[:-20])


@pytest.mark.slow
def test_a_host_that_is_away_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(enrolment, "ANSWER_TIMEOUT_S", 0.2)
    site = Site(tmp_path / "silent")
    try:
        with pytest.raises(TransferTimeoutError, match="does `trimtab serve` run"):
            enrol(tmp_path / "state", DEVICE, encode_token(site.token(DEVICE)))
    finally:
        site.close()


@pytest.mark.parametrize("moves", range(6))
def test_a_power_cut_while_a_set_is_moved_leaves_a_whole_one(tmp_path, monkeypatch, moves):
    identity = Identity(tmp_path)
    for generation in (b"old", b"new"):
        files = identity.next_set("enrolling")
        for name in ("device.key", "ca.pem", "1.root.json", "broker", "device.pem"):
            files.write(name, generation)
        if generation == b"old":
            identity.settle()
    real, left = Path.replace, iter(range(moves))

    def replace_until(path, target):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace_until)
    if moves < 5:
        with pytest.raises(KeyboardInterrupt):
            identity.settle()
    else:
        identity.settle()
    monkeypatch.undo()
    identity.settle()
    assert set(whole_files(tmp_path).values()) == {b"new"}
    assert not (identity.path / "enrolling").exists()


class FakeLink:
    """A host behind a link: `host` answers requests, or is None."""

    def __init__(self, host, device=DEVICE) -> None:
        self.host, self.connected, self.reconnected = host, True, 0
        self.device = device
        self.handlers = {}
        self.calls = []

    def subscribe(self, topic, handler) -> None:
        self.handlers[topic] = handler

    def when_connected(self, call) -> None:
        self.calls.append(call)

    def publish(self, topic, payload) -> None:
        assert topic == topics.renewal(self.device)
        if self.host:
            body = codec.encode(self.host(payload))
            answers = topics.certificate(self.device)
            self.handlers[answers](answers, body, {})

    def renew_tls(self) -> None:
        self.reconnected += 1


def in_this_process(question: Question) -> Reply:
    return codec.decode(answer(None, codec.encode(question)), Reply, what="the reply")


def looked(state, link, now: datetime) -> float:
    """Looks once, without the thread."""
    one = Renewal(
        link,
        Identity(state),
        link.device,
        ask=in_this_process,
        now_s=now.timestamp,
        answer_timeout_s=0.1,
    )
    link.subscribe(topics.certificate(link.device), one._on_certificate)
    return one.look()


def host_of(site, now: datetime, device=DEVICE):
    site.enrolment._now = lambda: now
    return lambda payload: site.enrolment.renew(device, payload)


def test_a_certificate_is_renewed_after_two_thirds_with_a_new_key(site, tmp_path):
    enrol(tmp_path, DEVICE, encode_token(site.token(DEVICE)))
    first, key = whole(tmp_path), (tmp_path / "identity" / "device.key").read_bytes()
    now = utc_now()
    link = FakeLink(host_of(site, now + timedelta(days=250)))
    try:
        assert looked(tmp_path, link, now + timedelta(days=200)) == DAY_S
        assert whole(tmp_path) == first
        assert looked(tmp_path, link, now + timedelta(days=250)) == DAY_S
    finally:
        host_of(site, now)
    assert link.reconnected == 1
    second = whole(tmp_path)
    assert second.not_valid_after_utc - first.not_valid_after_utc > timedelta(days=240)
    assert (tmp_path / "identity" / "device.key").read_bytes() != key


@pytest.mark.parametrize("fault", ["silence", "refusal", "garbage", "another key"])
def test_a_renewal_that_fails_leaves_the_present_certificate(site, tmp_path, fault):
    enrol(tmp_path, DEVICE, encode_token(site.token(DEVICE)))
    first, due = whole_files(tmp_path), utc_now() + timedelta(days=250)
    hosts = {
        "silence": None,
        "refusal": lambda _: EnrolmentAnswer(refusal="no"),
        "garbage": lambda _: EnrolmentAnswer(certificate="hello"),
        "another key": lambda _: EnrolmentAnswer(certificate=first["device.pem"].decode()),
    }
    link = FakeLink(hosts[fault])
    if fault == "refusal":
        assert looked(tmp_path, link, due) == RETRY_S
    else:
        with pytest.raises((TransferTimeoutError, IdentityError)):
            looked(tmp_path, link, due)
    Identity(tmp_path).settle()
    assert whole_files(tmp_path) == first
    assert link.reconnected == 0


def test_a_lost_answer_to_a_renewal_is_given_again(site, tmp_path):
    device = "dev-lost"
    enrol(tmp_path, device, encode_token(site.token(device)))
    due = utc_now() + timedelta(days=250)
    asked: list[bytes] = []
    host = host_of(site, due, device)

    def deaf(payload):
        asked.append(host(payload).certificate)
        return EnrolmentAnswer(refusal="lost on its way")

    try:
        looked(tmp_path, FakeLink(deaf, device), due)
        looked(tmp_path, FakeLink(host, device), due)
    finally:
        host_of(site, utc_now())
    whole(tmp_path)
    assert (tmp_path / "identity" / "device.pem").read_text() == asked[0]


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ("1970-01-01T00:01", "clock says 1970-01-01T00:01+00:00, before its certificate was made"),
        ("2026-05-31", "set the clock"),
        ("2026-06-02", None),
        ("2027-06-02", "has expired at 2027-06-01"),
    ],
)
def test_a_wrong_clock_and_an_expired_certificate_are_said(now, words):
    begins, ends, at = (
        datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp()
        for day in ("2026-06-01", "2027-06-01", now)
    )
    trouble = describe_trouble(Reply(begins_s=begins, ends_s=ends), at)
    assert (words in trouble) if words else trouble is None


@pytest.mark.slow
def test_a_real_link_comes_back_with_the_new_certificate(site, tmp_path):
    """With the real child process and the real broker; only enrolment was long ago."""
    device = "dev-real"
    token = encode_token(site.token(device))
    host_of(site, utc_now() - timedelta(days=250))
    enrol(tmp_path, device, token)
    host_of(site, utc_now())
    first = whole(tmp_path)
    identity = Identity(tmp_path)
    reconnected = []
    with (
        site.link(identity.tls_files, "device") as link,
        Renewal(link, identity, device),
    ):
        link.when_connected(lambda: reconnected.append(True))
        deadline = datetime.now(timezone.utc) + timedelta(seconds=20)
        while not reconnected:
            assert utc_now() < deadline
            time.sleep(0.05)
        link.publish(topics.status(device), b"", wait_s=5)
    assert whole(tmp_path).serial_number != first.serial_number


def test_no_other_device_knows_the_client_id(tmp_path):
    """With it, any client of the broker could end this one's connection, again and again."""
    identity = Identity(tmp_path)
    assert identity.client_id("dev-1") == "trimtab-agent-dev-1"  # no key, no TLS, no secrets
    identity.path.mkdir()
    (identity.path / "device.key").write_bytes(b"a key")
    first = identity.client_id("dev-1")
    assert first == Identity(tmp_path).client_id("dev-1")
    (identity.path / "device.key").write_bytes(b"another key")
    assert identity.client_id("dev-1") not in (first, "trimtab-agent-dev-1")
