"""The process that looks at the device: `python -m trimtab_agent.bench.inventory_child`.

Started once in the agent's life. Looking for runtimes takes `importlib.metadata`, which brings
`email` and `zipfile`, and the memory takes psutil: 3 MB that would stay in the agent.
"""

from __future__ import annotations

import socket
import sys

from trimtab_agent.bench.inventory import inventory
from trimtab_agent.contract import codec
from trimtab_agent.helper_child import serve


def answer(_connection: socket.socket, profile: bytes) -> bytes:
    """Describes the device whose profile has this id."""
    return codec.encode(inventory(profile.decode()))


if __name__ == "__main__":
    sys.exit(serve(answer))
