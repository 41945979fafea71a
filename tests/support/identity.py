"""A certificate authority, a broker with TLS, and devices with certificates, all real."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.agent_brokers import MOSQUITTO
from support.brokers import missing
from trimtab.fleet.authority import Authority
from trimtab.fleet.broker import free_port, start_broker
from trimtab.fleet.enrolment import Enrolment, serve_enrolment
from trimtab.fleet.gatekeeper import Gatekeeper
from trimtab.fleet.registry import CertificateRecord, Registry
from trimtab.fleet.supervised import Guard, SupervisedBroker
from trimtab_agent.broker_url import BrokerUrl, parse_broker_url
from trimtab_agent.link import Link
from trimtab_agent.tls import TlsFiles

ROOT = b'{"signed": "a root"}'
NAMES = ("127.0.0.1", "localhost")


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


class Site:
    """A host's side with its broker. `tend` is what `trimtab serve` does twice a second."""

    def __init__(self, path: Path, *, names=NAMES) -> None:
        if MOSQUITTO is None:
            missing("mosquitto is not installed on this machine")
        self.path = path
        self.authority = Authority.open(path / "identity")
        self.registry = Registry(path / "identity" / "register.sqlite")
        self.enrolment = Enrolment(self.authority, self.registry, ROOT)
        port, self.enrolment_port = free_port("127.0.0.1", 0), free_port("127.0.0.1", 0)
        guard = Guard(
            Gatekeeper(self.authority, self.registry, names, self.enrolment_port), self.registry
        )
        host = self.authority.host_files(utc_now())
        self.supervised = SupervisedBroker(
            lambda: start_broker(path / "broker", port=port, tls=guard.tls, client=host), guard
        )

    @property
    def url(self) -> BrokerUrl:
        return parse_broker_url(self.supervised.broker.url)

    @property
    def enrolment_url(self) -> str:
        return f"mqtts://127.0.0.1:{self.enrolment_port}"

    def tend(self) -> None:
        self.supervised.tend()

    @contextlib.contextmanager
    def host(self, name: str = "trimtab-host-test") -> Iterator[Link]:
        """Yields a connected link of the host."""
        with self.link(self.authority.host_files(utc_now()), name) as link:
            yield link

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Answers requests for certificates, as `trimtab serve` does."""
        with self.host("trimtab-host-enrolment") as link:
            serve_enrolment(link, self.enrolment)
            yield

    @contextlib.contextmanager
    def link(self, tls: TlsFiles, name: str) -> Iterator[Link]:
        """Yields a connected link."""
        with Link(self.url, name, tls=tls) as link:
            link.connect(5)
            yield link

    def device(self, device: str, *, where: str | None = None, now=None) -> TlsFiles:
        """Gives a device a certificate, as if it had enrolled."""
        directory = self.path / (where or device)
        files, record = certificate_for(self.authority, device, directory, now=now)
        self.registry.add_certificate(record)
        return files

    def token(self, device: str, valid: timedelta = timedelta(hours=1)):
        """Returns a new token that the broker knows already."""
        token, _ = self.enrolment.new_token(
            device, valid, broker=str(self.url), enrolment=self.enrolment_url
        )
        self.tend()
        return token

    def close(self) -> None:
        self.supervised.broker.close()


def certificate_for(
    authority: Authority, device: str, path: Path, *, now: datetime | None = None
) -> tuple[TlsFiles, CertificateRecord]:
    """Writes a key and a certificate; `now` is when it was issued."""
    path.mkdir(parents=True, exist_ok=True)
    now = now or utc_now()
    key = ec.generate_private_key(ec.SECP256R1())
    made = authority.issue_for_device(device, key.public_key(), now)
    pem = made.public_bytes(serialization.Encoding.PEM)
    (path / "device.pem").write_bytes(pem)
    (path / "device.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    record = CertificateRecord(
        serial=made.serial_number,
        device=device,
        key_sha256=f"of {device}",
        pem=pem.decode(),
        issued=now,
        expires=made.not_valid_after_utc,
    )
    files = TlsFiles(authority.path / "ca.pem", path / "device.pem", path / "device.key")
    return files, record


class Inbox:
    """What arrives at a link on one filter."""

    def __init__(self, link: Link, pattern: str) -> None:
        self._messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        link.subscribe(pattern, lambda topic, body, _: self._messages.put((topic, body)))

    def put(self, topic: str, body: bytes) -> None:
        """Adds a message that came on another subscription."""
        self._messages.put((topic, body))

    @property
    def empty(self) -> bool:
        return self._messages.empty()

    def until(self, last: str) -> list[str]:
        """Returns the topics of everything up to a message on `last`, without it."""
        topics = []
        while True:
            topic, _ = self._messages.get(timeout=5)
            if topic == last:
                return topics
            topics.append(topic)
