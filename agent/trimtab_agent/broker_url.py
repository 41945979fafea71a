"""Where a broker listens."""

from __future__ import annotations

import re

import msgspec

from trimtab_agent.errors import CallerError

PLAIN_PORT = 1883
TLS_PORT = 8883
"""IANA's numbers for mqtt and secure-mqtt."""


class BrokerUrl(msgspec.Struct, frozen=True):
    """A broker's address; `str()` gives the URL back.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: Whether the connection is encrypted, with certificates on both sides.
    """

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_broker_url(url: str) -> BrokerUrl:
    """Reads a broker's address, such as `mqtt://127.0.0.1:1883` or `mqtts://plant.local`.

    Raises:
        CallerError: It has another form.
    """
    match = re.fullmatch(r"mqtt(s?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?/?", url)
    tls = bool(match and match[1])
    port = int(match[3] or (TLS_PORT if tls else PLAIN_PORT)) if match else 0
    if match is None or not 0 < port < 65536:
        raise CallerError(
            f"broker {url!r} is not of the form mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS"
        )
    return BrokerUrl(match[2].strip("[]"), port, tls)
