"""What a device may read and write at a real broker with TLS: all topics, one by one."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from support.identity import Inbox, Site, certificate_for, utc_now
from trimtab.fleet.authority import Authority
from trimtab_agent.broker_url import BrokerUrl, parse_broker_url
from trimtab_agent.contract import topics
from trimtab_agent.errors import BrokerError
from trimtab_agent.link import Link
from trimtab_agent.tls import TlsFiles

OWN, OTHER = "dev-a", "dev-b"
DEVICE_TOPICS = {
    "assignment": topics.assignment,
    "status": topics.status,
    "progress": topics.progress,
    "report": topics.report,
    "ack": topics.acknowledgement,
    "want": topics.want,
    "block": topics.block,
    "command": topics.command,
    "reply": topics.reply,
    "renew": topics.renewal,
    "certificate": topics.certificate,
}
SHARED = {
    "blob": topics.blob("0" * 64),
    "document": topics.document("timestamp.json", 0),
    "root-version": topics.ROOT_VERSION,
    "group": topics.group_chunk("kitchens"),
    "enrolment request": topics.enrolment_request("t1"),
    "enrolment answer": topics.enrolment_answer("t1"),
    "own enrolment answer": topics.enrolment_answer(OWN),
    "outside": "elsewhere/a",
    "broker": "$SYS/broker/version",
}
READS = {SHARED[name] for name in ("blob", "document", "root-version", "group")} | {
    DEVICE_TOPICS[name](OWN) for name in ("assignment", "ack", "block", "command", "certificate")
}
WRITES = {
    DEVICE_TOPICS[name](OWN) for name in ("status", "progress", "report", "want", "reply", "renew")
}
HOSTS = [topic for topic in SHARED.values() if topic.startswith(topics.PREFIX)] + [
    topic(device) for topic in DEVICE_TOPICS.values() for device in (OWN, OTHER)
]
EVERY = list(dict.fromkeys([*SHARED.values(), *HOSTS]))
LAST = topics.acknowledgement(OWN)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@pytest.fixture(scope="module")
def device(site):
    with site.link(site.device(OWN), "device") as link:
        yield link


@pytest.fixture(scope="module")
def host(site):
    with site.host() as link:
        yield link


@pytest.mark.parametrize("topic", EVERY)
def test_a_device_writes_its_own_topics_and_nothing_else(device, topic):
    if topic in WRITES:
        device.publish(topic, b"mine", wait_s=5)
    else:
        with pytest.raises(BrokerError, match=r"[Nn]ot authorized"):
            device.publish(topic, b"not mine", wait_s=5)


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("pattern", ["#", "trimtab/v1/#", "trimtab/v1/device/+/#", "exact"])
def test_a_device_reads_its_own_topics_and_nothing_else(site, host, device, pattern, retain):
    expected = {topic for topic in READS if pattern != "trimtab/v1/device/+/#" or OWN in topic}
    with site.link(site.device(OWN), "reader") as reader:
        if not retain:
            inboxes = subscribe(reader, pattern)
            time.sleep(0.2)
        for topic in HOSTS:
            if topic != LAST:
                host.publish(topic, b"for whom it may concern", wait_s=5, retain=retain)
        if retain:
            inboxes = subscribe(reader, pattern)
            time.sleep(0.2)
        host.publish(LAST, b"the end", wait_s=5)
        got = {topic for inbox in inboxes for topic in inbox.until(LAST)}
    assert got == expected - {LAST}


@pytest.mark.slow
@pytest.mark.parametrize("names", [("an-old-one", "expired"), ("not-yet", "not accepted")])
def test_a_certificate_out_of_its_time_is_refused(site, names):
    device, why = names
    when = utc_now() + timedelta(days=-400 if why == "expired" else 400)
    assert why in refused(site, site.device(device, now=when))


def subscribe(reader, pattern):
    if pattern != "exact":
        return [Inbox(reader, pattern)]
    inbox = Inbox(reader, LAST)
    for topic in EVERY:
        if topic != LAST:
            reader.subscribe(topic, lambda name, body, _: inbox.put(name, body))
    return [inbox]


def test_the_host_reads_what_devices_write_and_writes_everywhere(site, host, device):
    inbox = Inbox(host, "trimtab/v1/device/+/#")
    for topic in sorted(WRITES):
        device.publish(topic, b"mine", wait_s=5)
    host.publish(topics.block(OTHER), b"the end", wait_s=5)
    assert set(inbox.until(topics.block(OTHER))) >= WRITES


@pytest.mark.slow
def test_a_revoked_device_is_disconnected_and_refused(site, host):
    files, other = site.device("dev-r"), site.device("dev-s")
    with site.link(files, "revoked") as revoked, site.link(other, "bystander") as bystander:
        got = Inbox(bystander, topics.assignment("dev-s"))
        site.registry.revoke("dev-r", utc_now())
        site.tend()
        assert "was revoked" in refused(site, files)
        wait_for(lambda: bystander.connected and host.connected)
        assert not revoked.connected
        host.publish(topics.assignment("dev-s"), b"", wait_s=5)
        host.publish(topics.acknowledgement("dev-s"), b"", wait_s=5)
        assert got.until(topics.assignment("dev-s")) == []
    with site.link(site.device("dev-r", where="dev-r again"), "enrolled-again"):
        pass
    assert "was revoked" in refused(site, files)


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def refused(site, files: TlsFiles | None) -> str:
    with Link(site.url, "stranger", tls=files) as link, pytest.raises(BrokerError) as caught:
        link.connect(5)
    return str(caught.value)


def test_a_client_without_a_certificate_is_refused(site):
    message = refused(site, TlsFiles(site.authority.path / "ca.pem"))
    assert "wants a client certificate and got none" in message
    assert "trimtab-agent enroll" in message


def test_a_certificate_of_another_authority_is_refused(site, tmp_path):
    rogue = Authority.open(tmp_path / "rogue")
    files, _ = certificate_for(rogue, OWN, tmp_path / "device")
    files = TlsFiles(site.authority.path / "ca.pem", files.certificate, files.key)
    assert "of another authority" in refused(site, files)


def test_a_device_does_not_trust_the_broker_of_another_authority(site, tmp_path):
    rogue = Authority.open(tmp_path / "rogue")
    files, _ = certificate_for(rogue, OWN, tmp_path / "device")
    assert "not the broker that this side trusts" in refused(site, files)


@pytest.mark.slow
def test_a_plain_client_is_refused(site):
    with Link(BrokerUrl(site.url.host, site.url.port), "plain") as link:  # noqa: SIM117
        with pytest.raises(BrokerError):
            link.connect(2)


def test_a_token_opens_its_own_topics_and_nothing_else(site, host):
    token = site.token("dev-c")
    tls, url = TlsFiles(site.authority.path / "ca.pem"), parse_broker_url(site.enrolment_url)
    with Link(url, "enrolling", tls=tls, login=(token.id, token.secret)) as link:
        link.connect(5)
        inbox = Inbox(link, "#")
        link.publish(topics.enrolment_request(token.id), b"", wait_s=5)
        for topic in (*EVERY, topics.status("dev-c"), topics.status(token.id)):
            with pytest.raises(BrokerError, match=r"[Nn]ot authorized"):
                link.publish(topic, b"", wait_s=5)
        for topic in (*HOSTS, topics.assignment(token.id)):
            host.publish(topic, b"x", wait_s=5)
        host.publish(topics.enrolment_answer(token.id), b"", wait_s=5)
        assert inbox.until(topics.enrolment_answer(token.id)) == []


@pytest.mark.parametrize("login", [None, ("t0", "guess"), ("token", "wrong")])
def test_without_its_secret_nobody_enrols(site, login):
    token = site.token("dev-d")
    if login and login[0] == "token":
        login = token.id, login[1]
    tls, url = TlsFiles(site.authority.path / "ca.pem"), parse_broker_url(site.enrolment_url)
    with Link(url, "guessing", tls=tls, login=login) as link:  # noqa: SIM117
        with pytest.raises(BrokerError, match="Not authorized"):
            link.connect(5)
