"""A broker on this machine, as a child process that ends with whoever started it.

Without TLS it lets every client in, so it listens on a loopback address and nowhere else.
"""

from __future__ import annotations

import atexit
import contextlib
import ipaddress
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Literal

from trimtab.fleet.brokers import PROGRAMS, BrokerKind, BrokerProgram, BrokerTls
from trimtab_agent.broker_url import BrokerUrl
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import BrokerError, CallerError
from trimtab_agent.tls import TlsContext, TlsFiles

START_TIMEOUT_S = 15.0
"""iotcore starts a Python interpreter first; on a busy board that takes seconds."""

STOP_TIMEOUT_S = 10.0
"""Mosquitto writes its retained messages before it goes."""

_LOG_LINES = 5

_CONNECT = (
    b"\x10\x1a"  # CONNECT, 26 bytes follow
    b"\x00\x04MQTT\x05"  # protocol MQTT, version 5
    b"\x02\x00\x0a"  # clean start, keep alive 10 s
    b"\x00"  # no properties
    b"\x00\x0dtrimtab-probe"  # client id
)
"""A CONNECT packet (MQTT 5.0, section 3.1)."""

_CONNACK = 0x20
_DISCONNECT = b"\xe0\x00"


class Broker:
    """A running broker. Use it as a context manager, or call `close`.

    Attributes:
        url: Where this machine reaches it, such as `mqtt://127.0.0.1:1883`.
        kind: What it is.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str, kind: BrokerKind) -> None:
        self._process = process
        self.url = url
        self.kind = kind
        atexit.register(self.close)

    def __enter__(self) -> Broker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def ended(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._process.poll()

    def reload(self) -> None:
        """Has it read its certificates and access files again; connections stay."""
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        """Stops the broker and waits for its end. A second call does nothing."""
        atexit.unregister(self.close)
        _stop(self._process)


def start_broker(
    data_dir: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    kind: Literal["auto", "mosquitto", "iotcore"] = "auto",
    tls: BrokerTls | None = None,
    client: TlsFiles | None = None,
) -> Broker:
    """Starts a broker and waits until it accepts MQTT 5 connections.

    Args:
        data_dir: For its configuration, its log and what it keeps; made if it is missing.
        host: The address to listen on; without TLS a loopback address.
        port: Where to listen; 0 takes one that is free.
        kind: `auto` takes Mosquitto when it is installed, else iotcore.
        tls: What it is configured with to encrypt and to know its clients.
        client: A certificate to try it with; needed with `tls`.

    Raises:
        CallerError: `host` is no loopback address and there is no TLS, or iotcore shall do TLS.
        IdentityError: The certificate to try it with cannot be used.
        BrokerError: No broker is installed, the port is in use, or the broker does not start;
            the last lines of its log are in the message.
        StorageError: `data_dir` cannot be written.
    """
    if tls is None:
        _check_loopback(host)
    program = _choose(kind)
    with storage_errors(f"preparing the broker's directory {data_dir}"):
        data_dir.mkdir(parents=True, exist_ok=True)
    port = free_port(host, port)
    with storage_errors(f"preparing the broker's directory {data_dir}"):
        command = program.prepare(data_dir, host, port, tls)
    url = BrokerUrl(_reached_at(host), port, tls=tls is not None)
    return _start(command, program.kind, url, data_dir / "broker.log", client)


def _reached_at(host: str) -> str:
    """Returns the address by which this machine reaches a broker that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- read, not bound


def _check_loopback(host: str) -> None:
    try:
        is_loopback = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise CallerError(
            f"the built-in broker cannot listen on {host!r}: it lets every client in, so it stays "
            f"on 127.0.0.1; for devices on a network use TLS: trimtab serve --host ADDRESS"
        )


def _choose(kind: Literal["auto", "mosquitto", "iotcore"]) -> BrokerProgram:
    wanted = [program for program in PROGRAMS if kind in ("auto", program.kind)]
    for program in wanted:
        if program.is_installed():
            return program
    names = " or ".join(program.kind for program in wanted)
    raise BrokerError(f"no broker is installed here: install {names}, or give a broker's URL")


def free_port(host: str, port: int) -> int:
    """Returns `port`, or a free one for 0, after a look that nobody listens there.

    Without the look, the probe would take a stranger's broker for ours.

    Raises:
        BrokerError: The port is in use, or `host` is no address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family) as probe:
            # As brokers do: connections of one that just ended are not in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            bound: int = probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise BrokerError(f"cannot listen on {host}:{port}: {error}; take another") from error
    return bound


def _start(
    command: list[str], kind: BrokerKind, url: BrokerUrl, log_path: Path, client: TlsFiles | None
) -> Broker:
    context = TlsContext(client).context if client else None
    with storage_errors(f"writing {log_path}"):
        log = log_path.open("wb")
    with log:
        process = subprocess.Popen(
            [*_ending_with_this_process(), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_it_answers(process, kind, url, context, log_path)
    except BaseException:
        _stop(process)
        raise
    return Broker(process, str(url), kind)


def _ending_with_this_process() -> list[str]:
    """Returns the start of a command that the kernel ends when this process is killed.

    Without setpriv(1), of util-linux, a broker outlives a host that was killed, and keeps its port.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _wait_until_it_answers(
    process: subprocess.Popen[bytes],
    kind: BrokerKind,
    url: BrokerUrl,
    context: ssl.SSLContext | None,
    log_path: Path,
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not accepts_mqtt5(url.host, url.port, context):
        if process.poll() is not None:
            what = f"ended with status {process.returncode}"
        elif time.monotonic() > deadline:
            what = f"does not accept MQTT 5 connections within {START_TIMEOUT_S:g} s"
        else:
            time.sleep(0.05)
            continue
        raise BrokerError(
            f"{kind} on {url.host}:{url.port} {what}; its log ends: {_tail(log_path)}"
        )


def accepts_mqtt5(host: str, port: int, context: ssl.SSLContext | None = None) -> bool:
    """Says whether a broker there answers an MQTT 5 CONNECT with success.

    Args:
        host: Where.
        port: Where.
        context: Encrypts, where the broker wants that.
    """
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((host, port), timeout=1.0))
            if context:
                encrypted = context.wrap_socket(connection, server_hostname=host)
                connection = stack.enter_context(encrypted)
            connection.sendall(_CONNECT)
            # Packet type, remaining length, acknowledge flags, reason code (section 3.2). The
            # length has one byte in every CONNACK with few properties. They come as one piece.
            answer = connection.recv(4)
            connection.sendall(_DISCONNECT)
    except OSError:
        return False
    return len(answer) == 4 and answer[0] == _CONNACK and answer[3] == 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log_path: Path) -> str:
    """Returns the last lines of a log, on one line."""
    with contextlib.suppress(OSError):
        lines = log_path.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
        return " | ".join(lines) or "(empty)"
    return "(unreadable)"
