"""What a link says when TLS fails: whose fault it is, and the way out."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import timedelta

import pytest

from support.identity import certificate_for, utc_now
from trimtab.fleet.authority import Authority
from trimtab_agent.broker_url import BrokerUrl, parse_broker_url
from trimtab_agent.errors import BrokerError, CallerError, IdentityError
from trimtab_agent.link import Link
from trimtab_agent.tls import TlsFiles, explain


class Server:
    """Accepts connections, offers a certificate (or none) and says `greeting`."""

    def __init__(self, context: ssl.SSLContext | None, greeting: bytes = b"", seen=None) -> None:
        self._context, self._greeting, self._seen = context, greeting, seen
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = BrokerUrl("127.0.0.1", self._socket.getsockname()[1], tls=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.settimeout(5)
                    if self._context:
                        with self._context.wrap_socket(connection, server_side=True) as encrypted:
                            if self._seen is not None:
                                subject = encrypted.getpeercert()["subject"]
                                self._seen.append(subject[0][0][1])
                            encrypted.recv(1)
                    else:
                        connection.recv(1)
                        connection.sendall(self._greeting)
                except OSError:
                    continue

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An authority, and a device of it."""
    path = tmp_path_factory.mktemp("world")
    authority = Authority.open(path / "identity")
    return authority, certificate_for(authority, "dev-a", path / "dev-a")[0]


def serving(authority, now=None, names=("127.0.0.1",), newest=None) -> ssl.SSLContext:
    files, _ = authority.server_files(names, now or utc_now())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.maximum_version = newest or ssl.TLSVersion.TLSv1_3
    return context


def why_refused(context, files, greeting=b"") -> str:
    server = Server(context, greeting)
    try:
        with Link(server.url, "device", tls=files) as link, pytest.raises(BrokerError) as caught:
            link.connect(5)
    finally:
        server.close()
    return str(caught.value)


BAD_SERVERS = {
    "expired": (
        lambda authority, _: serving(authority, utc_now() - timedelta(days=400)),
        ["its certificate has expired, by this clock", "restart `trimtab serve`"],
    ),
    "a clock that is behind": (
        lambda authority, _: serving(authority, utc_now() + timedelta(days=400)),
        ["not valid yet: is this clock right? It says 20"],
    ),
    "another name": (
        lambda authority, _: serving(authority, names=("plant.local",)),
        ["IP address mismatch", "trimtab serve --name"],
    ),
    "another authority": (
        lambda _, path: serving(Authority.open(path / "rogue")),
        ["not the broker that this side trusts", "trimtab-agent enroll"],
    ),
    "only TLS 1.2": (
        lambda authority, _: serving(authority, newest=ssl.TLSVersion.TLSv1_2),
        ["does not offer TLS 1.3"],
    ),
    "no TLS": (lambda *_: None, ["is it a broker without TLS (mqtt://)"]),
}


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_a_server_that_is_not_the_broker_is_told_apart(world, tmp_path, name):
    make, words = BAD_SERVERS[name]
    message = why_refused(make(world[0], tmp_path), world[1])
    assert message.startswith("cannot reach the broker at mqtts://127.0.0.1:")
    for expected in words:
        assert expected in message


def test_a_server_that_speaks_something_else(world):
    assert "does not speak TLS" in why_refused(None, world[1], b"SSH-2.0-OpenSSH_9.2\r\n" * 20)


@pytest.mark.parametrize("alert", ["CERTIFICATE_REQUIRED", "CERTIFICATE_EXPIRED", "UNKNOWN_CA"])
def test_alerts_about_this_sides_certificate_say_what_to_run(alert):
    error = ssl.SSLError(1, f"[SSL: TLSV1_ALERT_{alert}] ...")
    error.reason = f"TLSV1_ALERT_{alert}"
    assert "run: trimtab-agent enroll --token" in explain(error)


def test_without_certificates_the_link_says_what_to_run(tmp_path):
    url = parse_broker_url("mqtts://127.0.0.1")
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "device.pem", tmp_path / "device.key")
    with pytest.raises(IdentityError, match="not enrolled; on a device run: trimtab-agent enroll"):
        Link(url, "device", tls=files)
    with pytest.raises(IdentityError, match="wants TLS, and there is no certificate"):
        Link(url, "device")


def test_files_that_do_not_belong_together_are_said(world, tmp_path):
    authority, files = world
    other, _ = certificate_for(authority, "dev-b", tmp_path)
    with pytest.raises(IdentityError, match="cannot be used"):
        Link(BrokerUrl("h", 1, tls=True), "x", tls=TlsFiles(files.ca, files.certificate, other.key))
    (tmp_path / "torn.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA")
    with pytest.raises(IdentityError, match="cannot be used"):
        Link(BrokerUrl("h", 1, tls=True), "x", tls=TlsFiles(tmp_path / "torn.pem"))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mqtts://plant.local", BrokerUrl("plant.local", 8883, tls=True)),
        ("mqtts://[::1]:1", BrokerUrl("::1", 1, tls=True)),
        ("mqtt://h", BrokerUrl("h", 1883)),
    ],
)
def test_urls_say_whether_there_is_tls(text, url):
    assert parse_broker_url(text) == url
    assert parse_broker_url(str(url)) == url


@pytest.mark.parametrize("text", ["mqttss://h", "https://h", "mqtts://", "mqtts://h:0", "mqtts:h"])
def test_other_urls_are_refused(text):
    with pytest.raises(CallerError, match="mqtts://HOST:PORT for TLS"):
        parse_broker_url(text)


@pytest.mark.slow
def test_certificates_are_read_again_for_every_connection(world, tmp_path):
    """As on a host whose link is open for longer than its certificate is valid."""
    authority, _ = world
    files, _ = certificate_for(authority, "dev-c", tmp_path)
    context = serving(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.ca)
    seen = []
    server = Server(context, seen=seen)
    try:
        with Link(server.url, "device", tls=files) as link:
            for _ in range(2):
                with pytest.raises(BrokerError):
                    link.connect(1)
                certificate_for(authority, "dev-d", tmp_path)
    finally:
        server.close()
    assert seen[0] == "dev-c"
    assert seen[-1] == "dev-d"
