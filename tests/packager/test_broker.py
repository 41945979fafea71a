"""The built-in brokers: one contract, both programs."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from support.brokers import KINDS, broker_of, connected
from trimtab.fleet import brokers
from trimtab.fleet.broker import accepts_mqtt5, start_broker
from trimtab.fleet.brokers import Mosquitto
from trimtab_agent.errors import BrokerError, CallerError
from trimtab_agent.link import parse_broker_url


@pytest.fixture(params=KINDS)
def broker(request, tmp_path):
    with broker_of(request.param, tmp_path / "broker") as broker:
        yield broker


def address(broker):
    url = parse_broker_url(broker.url)
    return url.host, url.port


def test_retained_chunks_of_the_default_size_come_back(broker):
    payload = bytes(range(256)) * 4 * 96
    received = queue.Queue()
    with connected(broker, "sender") as sender:
        sender.publish("a/b", payload, retain=True, wait_s=5, properties={"parts": "1"})
    with connected(broker, "receiver") as receiver:
        receiver.subscribe("a/b", lambda *message: received.put(message))
        assert received.get(timeout=5) == ("a/b", payload, {"parts": "1"})


def test_it_listens_on_loopback_only(broker):
    _, port = address(broker)
    # /proc/net/tcp: the second field is the local address, the fourth the state, 0A for LISTEN.
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
    assert listening == [f"0100007F:{port:04X}"]


def test_closing_stops_it_and_frees_the_port(broker):
    host, port = address(broker)
    broker.close()
    broker.close()
    assert not accepts_mqtt5(host, port)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_the_block_stops_it(kind, tmp_path):
    def fail():
        with broker_of(kind, tmp_path) as broker:
            ports.append(address(broker))
            raise KeyError

    ports = []
    with pytest.raises(KeyError):
        fail()
    assert not accepts_mqtt5(*ports[0])


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_with_a_program_that_never_closes_it(kind, tmp_path):
    broker_of(kind, tmp_path).close()
    program = textwrap.dedent(f"""
        from pathlib import Path
        from trimtab.fleet.broker import start_broker
        print(start_broker(Path({str(tmp_path)!r}), kind={kind!r}).url)
        raise SystemExit(3)
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3, ended.stderr
    url = parse_broker_url(ended.stdout.strip())
    assert not accepts_mqtt5(url.host, url.port)


def test_a_port_in_use_is_said(broker, tmp_path):
    _, port = address(broker)
    with pytest.raises(BrokerError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*in use"):
        start_broker(tmp_path / "second", port=port, kind=broker.kind)


def test_mosquitto_keeps_retained_messages_over_a_restart(tmp_path):
    received = queue.Queue()
    with broker_of("mosquitto", tmp_path) as broker, connected(broker, "sender") as link:
        link.publish("kept", b"1", retain=True, wait_s=5)
    with broker_of("mosquitto", tmp_path) as broker, connected(broker, "receiver") as link:
        link.subscribe("kept", lambda *message: received.put(message))
        assert received.get(timeout=5)[1] == b"1"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "", "localhost", "example.org"])
def test_any_other_address_is_refused_with_the_reason(host, tmp_path):
    with pytest.raises(CallerError, match=r"cannot listen on .*: it lets every client in"):
        start_broker(tmp_path, host=host)


def test_auto_takes_mosquitto_first(tmp_path, monkeypatch):
    with start_broker(tmp_path) as broker:
        assert broker.kind == ("mosquitto" if Mosquitto().is_installed() else "iotcore")


def test_without_a_broker_both_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(brokers.shutil, "which", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "iotcore", None)
    with pytest.raises(
        BrokerError, match="no broker is installed here: install mosquitto or iotcore"
    ):
        start_broker(tmp_path)
    with pytest.raises(BrokerError, match="install mosquitto, or give"):
        start_broker(tmp_path, kind="mosquitto")


class Broken:
    """A program that is no broker."""

    kind = "mosquitto"

    def __init__(self, script):
        self.script = script

    def is_installed(self):
        return True

    def prepare(self, data_dir, host, port, tls=None):
        return [sys.executable, "-c", self.script.format(port=port)]


def test_a_broker_that_ends_is_reported_with_its_log(tmp_path, monkeypatch):
    program = Broken("print('line one'); print('Error: no such thing'); raise SystemExit(7)")
    monkeypatch.setattr("trimtab.fleet.broker.PROGRAMS", (program,))
    with pytest.raises(
        BrokerError, match=r"ended with status 7; its log ends: line one \| Error: no such thing"
    ):
        start_broker(tmp_path)


def test_a_broker_of_mqtt_3_is_stopped_and_reported(tmp_path, monkeypatch):
    """It accepts connections and answers as MQTT 3.1.1 does: unacceptable protocol version."""
    script = textwrap.dedent("""
        import socket
        server = socket.create_server(("127.0.0.1", {port}))
        print("listening", flush=True)
        while True:
            connection, _ = server.accept()
            connection.sendall(bytes([0x20, 2, 0, 1]))
            connection.close()
    """)
    monkeypatch.setattr("trimtab.fleet.broker.PROGRAMS", (Broken(script),))
    monkeypatch.setattr("trimtab.fleet.broker.START_TIMEOUT_S", 1.0)
    started = time.monotonic()
    with pytest.raises(
        BrokerError, match=r"does not accept MQTT 5 connections within 1 s; .*listen"
    ):
        start_broker(tmp_path)
    assert time.monotonic() - started < 8
