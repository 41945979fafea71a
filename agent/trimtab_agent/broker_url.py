"""Where a broker listens."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trimtab_agent.errors import CallerError


@dataclass(frozen=True)
class BrokerUrl:
    """A broker's address; `str()` gives the URL back."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{host}:{self.port}"


def parse_broker_url(url: str) -> BrokerUrl:
    """Reads a broker's address, such as `mqtt://127.0.0.1:1883` or `mqtt://[::1]`.

    Raises:
        CallerError: It has another form.
    """
    match = re.fullmatch(r"mqtt://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?/?", url)
    port = int(match[2] or 1883) if match else 0
    if match is None or not 0 < port < 65536:
        raise CallerError(f"broker {url!r} is not of the form mqtt://HOST or mqtt://HOST:PORT")
    return BrokerUrl(match[1].strip("[]"), port)
