"""The process that decodes: `python -m trimtab_agent.installer_child`, started by `installer`."""

from __future__ import annotations

import socket
import sys

from trimtab_agent import frames
from trimtab_agent.assembly import Order, assemble
from trimtab_agent.contract import codec
from trimtab_agent.helper_child import serve


def answer(connection: socket.socket, data: bytes) -> bytes:
    """Assembles a version; the answer is empty.

    Raises:
        TrimtabError: What is wrong with the package or the disk.
    """
    order = codec.decode(data, Order, what="the order")
    assemble(order, working=lambda: frames.send(connection, frames.WORKING))
    return b""


if __name__ == "__main__":
    sys.exit(serve(answer))
