"""How each kind of broker is configured and started. What they share is in `broker`.

Without TLS both listen on a loopback address and let every client in: nothing outside this machine
can reach them. With TLS there is Mosquitto only, and every client shows who it is.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from trimtab_agent.errors import CallerError
from trimtab_agent.tls import TlsFiles

BrokerKind = Literal["mosquitto", "iotcore"]

MAX_PAYLOAD_BYTES = 256 * 1024
"""iotcore's limit, raised from its default of 20 KiB: two chunks' worth, so that a chunk of the
default size always passes."""

QUEUED_MESSAGES = 100_000
"""Mosquitto's queue for a client that is slow or away. Its default of 1,000 drops silently what
comes after; 0, unlimited, drops everything in some builds of 2.0 (mosquitto issue 2876)."""

QUEUED_BYTES = 256 * 1024 * 1024
"""The same queue in bytes, so that one client that hangs cannot fill the memory."""

AUTOSAVE_S = 60
"""Mosquitto writes its retained messages this often, all of them each time. What a crash loses,
the host publishes again."""


MAX_PACKET_BYTES = 4 * 1024 * 1024 + 64 * 1024
"""The largest chunk that a package may have (docs/formats/package.md), and room for its topic."""

ENROLMENT_CONNECTIONS = 100
"""At once, by clients that have shown nothing yet but a token."""


@dataclass(frozen=True, kw_only=True)
class BrokerTls:
    """What a broker with TLS is configured with.

    Attributes:
        server: Its certificate, and the authority that signs those of its clients.
        revoked: List of the certificates that are no longer valid, PEM.
        access: What clients with certificates may do.
        token_access: What clients with a token may do, at the enrolment listener.
        passwords: The tokens.
        enrolment_port: Where that listener is.
    """

    server: TlsFiles
    revoked: Path
    access: Path
    token_access: Path
    passwords: Path
    enrolment_port: int


class BrokerProgram(Protocol):
    """One kind of broker: whether it is here, and how to start it."""

    @property
    def kind(self) -> BrokerKind:
        """What it is called."""

    def is_installed(self) -> bool:
        """Says whether it can be started on this machine."""

    def prepare(
        self, data_dir: Path, host: str, port: int, tls: BrokerTls | None = None
    ) -> list[str]:
        """Writes its configuration into `data_dir`; returns the command that starts it."""


@dataclass(frozen=True)
class Mosquitto:
    """Eclipse Mosquitto, when it is installed; keeps retained messages over a restart."""

    kind: BrokerKind = "mosquitto"

    def is_installed(self) -> bool:
        """Says whether the program is on PATH, or in the place where Debian puts it."""
        return self._program() is not None

    def prepare(
        self, data_dir: Path, host: str, port: int, tls: BrokerTls | None = None
    ) -> list[str]:
        """Writes `mosquitto.conf`; see mosquitto.conf(5) for every line."""
        lines = [
            "per_listener_settings true",
            "set_tcp_nodelay true",
            "persistence true",
            f"persistence_location {data_dir.resolve()}/",
            f"autosave_interval {AUTOSAVE_S}",
            f"max_queued_messages {QUEUED_MESSAGES}",
            f"max_queued_bytes {QUEUED_BYTES}",
            # True would hide what was retained before a listener moved to another port, and ask
            # the access list again for every message. Who may write was checked on the way in.
            "check_retain_source false",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
        ]
        if os.getuid() == 0:
            # Started by root it becomes the user `mosquitto`, who cannot write to data_dir.
            lines.append(f"user {pwd.getpwuid(0).pw_name}")
        if tls:
            lines += [f"max_packet_size {MAX_PACKET_BYTES}"]
            lines += [*_device_listener(host, port, tls), *_token_listener(host, tls)]
        else:
            lines += [f"listener {port} {host}", "allow_anonymous true"]
        path = data_dir / "mosquitto.conf"
        path.write_text("\n".join([*lines, ""]))
        return [str(self._program()), "-c", str(path)]

    @staticmethod
    def _program() -> str | None:
        # Debian installs it where PATH of a plain user does not look.
        return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def _device_listener(host: str, port: int, tls: BrokerTls) -> list[str]:
    """Returns the listener of hosts and enrolled devices."""
    return [
        f"listener {port} {host}",
        *_server_side(tls),
        f"cafile {tls.server.ca}",
        f"crlfile {tls.revoked}",
        "require_certificate true",
        "use_identity_as_username true",
        f"acl_file {tls.access}",
    ]


def _token_listener(host: str, tls: BrokerTls) -> list[str]:
    """Returns the listener of devices that have only a token."""
    return [
        f"listener {tls.enrolment_port} {host}",
        *_server_side(tls),
        "require_certificate false",
        f"password_file {tls.passwords}",
        f"acl_file {tls.token_access}",
        f"max_connections {ENROLMENT_CONNECTIONS}",
    ]


def _server_side(tls: BrokerTls) -> list[str]:
    return [
        "allow_anonymous false",
        f"certfile {tls.server.certificate}",
        f"keyfile {tls.server.key}",
        "tls_version tlsv1.3",
    ]


@dataclass(frozen=True)
class IotCore:
    """iotcore, a broker that pip installs. For a first try: it forgets everything when it ends."""

    kind: BrokerKind = "iotcore"

    def is_installed(self) -> bool:
        """Says whether the package can be imported."""
        return importlib.util.find_spec("iotcore") is not None

    def prepare(
        self, data_dir: Path, host: str, port: int, tls: BrokerTls | None = None
    ) -> list[str]:
        """Writes `iotcore.toml`: its own options offer MQTT 3.1.1 only, on every interface.

        Raises:
            CallerError: TLS is wanted.
        """
        if tls:
            raise CallerError(
                "iotcore cannot serve devices on a network: it checks no client certificates, has "
                "no access rules and forgets retained messages when it restarts; install Mosquitto"
            )
        path = data_dir / "iotcore.toml"
        path.write_text(
            f"""id = 0
[router]
id = 0
max_connections = 10000
max_outgoing_packet_count = 200
# Smaller segments save memory but lose messages to slow subscribers without an error.
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "trimtab"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {MAX_PAYLOAD_BYTES}
max_inflight_count = 100
dynamic_filters = true
"""
        )
        # -P: a directory named iotcore where the user stands must not be imported instead.
        # CRITICAL: below it, the broker logs a record at level ERROR for every packet.
        command = [sys.executable, "-P", "-m", "iotcore", "--config", str(path)]
        return [*command, "--log-level", "CRITICAL"]


PROGRAMS: tuple[BrokerProgram, ...] = (Mosquitto(), IotCore())
"""Best first."""
