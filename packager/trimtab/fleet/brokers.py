"""How each kind of broker is configured and started.

Both listen on a loopback address and let every client in: nothing outside this machine can reach
them. What they share is in `broker`.
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


class BrokerProgram(Protocol):
    """One kind of broker: whether it is here, and how to start it."""

    @property
    def kind(self) -> BrokerKind:
        """What it is called."""

    def is_installed(self) -> bool:
        """Says whether it can be started on this machine."""

    def prepare(self, data_dir: Path, host: str, port: int) -> list[str]:
        """Writes its configuration into `data_dir`; returns the command that starts it."""


@dataclass(frozen=True)
class Mosquitto:
    """Eclipse Mosquitto, when it is installed; keeps retained messages over a restart."""

    kind: BrokerKind = "mosquitto"

    def is_installed(self) -> bool:
        """Says whether the program is on PATH, or in the place where Debian puts it."""
        return self._program() is not None

    def prepare(self, data_dir: Path, host: str, port: int) -> list[str]:
        """Writes `mosquitto.conf`; see mosquitto.conf(5) for every line."""
        lines = [
            f"listener {port} {host}",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            "persistence true",
            f"persistence_location {data_dir.resolve()}/",
            f"autosave_interval {AUTOSAVE_S}",
            f"max_queued_messages {QUEUED_MESSAGES}",
            f"max_queued_bytes {QUEUED_BYTES}",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
        ]
        if os.getuid() == 0:
            # Started by root it becomes the user `mosquitto`, who cannot write to data_dir.
            lines.append(f"user {pwd.getpwuid(0).pw_name}")
        path = data_dir / "mosquitto.conf"
        path.write_text("\n".join([*lines, ""]))
        return [str(self._program()), "-c", str(path)]

    @staticmethod
    def _program() -> str | None:
        # Debian installs it where PATH of a plain user does not look.
        return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


@dataclass(frozen=True)
class IotCore:
    """iotcore, a broker that pip installs. For a first try: it forgets everything when it ends."""

    kind: BrokerKind = "iotcore"

    def is_installed(self) -> bool:
        """Says whether the package can be imported."""
        return importlib.util.find_spec("iotcore") is not None

    def prepare(self, data_dir: Path, host: str, port: int) -> list[str]:
        """Writes `iotcore.toml`: its own options offer MQTT 3.1.1 only, on every interface."""
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
