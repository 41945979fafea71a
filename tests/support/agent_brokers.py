"""Real brokers for the agent's tests, on 127.0.0.1 and a free port, with limits to run into."""

from __future__ import annotations

import contextlib
import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import iotcore

from support.brokers import missing
from trimtab_agent.link import BrokerUrl

KINDS = ("mosquitto", "iotcore")
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

_IOTCORE_CONFIG = """
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 10485760
max_segment_count = 4
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 262144
max_inflight_count = 100
dynamic_filters = true
"""


def free_port() -> int:
    """Returns a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def broker(
    kind: str, directory: Path, *, port: int | None = None, extra: str = ""
) -> Iterator[BrokerUrl]:
    """Runs a broker of one of `KINDS`; `extra` is added to its configuration."""
    port = port or free_port()
    start = _mosquitto if kind == "mosquitto" else _iotcore
    with start(directory, port, extra):
        yield BrokerUrl("127.0.0.1", port)


@contextlib.contextmanager
def _mosquitto(directory: Path, port: int, extra: str) -> Iterator[None]:
    if MOSQUITTO is None:
        missing("mosquitto is not on PATH")
    config = directory / f"mosquitto-{port}.conf"
    config.write_text(
        # Started by root it would become another user, who cannot read the test's directory.
        f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\nset_tcp_nodelay true\n"
        f"{'' if 'password_file' in extra else 'allow_anonymous true'}\n{extra}\n"
    )
    with (directory / "mosquitto.log").open("ab") as log:
        process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 10
        while not _listens(port):
            assert process.poll() is None, (directory / "mosquitto.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _iotcore(directory: Path, port: int, extra: str) -> Iterator[None]:
    config = directory / f"iotcore-{port}.toml"
    config.write_text(_IOTCORE_CONFIG.format(port=port) + extra)
    with iotcore.Broker(config_path=str(config)):
        yield


def _listens(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=0.2),
    ):
        return True
    return False
