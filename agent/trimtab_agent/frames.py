"""What the agent and a child process of it say to each other: frames over a local socket.

    byte 0      kind, one letter
    bytes 1-4   length of the body, big-endian, at most MAX_BODY_BYTES
    rest        the body: JSON or raw bytes, as the kind says

    agent to child                           child to agent
    Q  the question, JSON                    A  the answer, raw: the child ends after it
    P  next piece of a document, raw         F  a fault, JSON, in place of the answer
    E  the document is at its end            R  read this document, its name
    N  there is no such document, why        M  more of it
                                             W  still at work

Only the child begins: each `R` and `M` is answered by one `P`, `E` or `N`. So neither side ever
has more than one frame to hold, however long a document is.
"""

from __future__ import annotations

import socket
import time
from typing import NamedTuple

from trimtab_agent.errors import FormatError

QUESTION, ANSWER, FAULT = b"Q", b"A", b"F"
READ, MORE, PIECE, END, MISSING = b"R", b"M", b"P", b"E", b"N"
WORKING = b"W"

MAX_BODY_BYTES = 20 << 20
"""A whole document (`layout.MAX_DOCUMENT_BYTES`) in JSON's base64, and room for the rest."""

_HEAD_BYTES = 5
_KINDS = (QUESTION, ANSWER, FAULT, READ, MORE, PIECE, END, MISSING, WORKING)
_READ_BYTES = 1 << 16


class Frame(NamedTuple):
    """One frame."""

    kind: bytes
    body: bytes


def send(connection: socket.socket, kind: bytes, body: bytes = b"") -> None:
    """Sends a frame.

    Raises:
        OSError: The other side is gone, or did not take it within the socket's time limit.
    """
    connection.sendall(kind + len(body).to_bytes(_HEAD_BYTES - 1, "big") + body)


def receive(connection: socket.socket, *, timeout_s: float | None = None) -> Frame:
    """Returns the next frame.

    Args:
        connection: The socket.
        timeout_s: Longest time until all of it is there; None for no limit.

    Raises:
        EOFError: The other side is gone.
        FormatError: It is no frame.
        OSError: It did not come in time (`TimeoutError`), or the socket failed.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    head = _exactly(connection, _HEAD_BYTES, deadline)
    kind, length = head[:1], int.from_bytes(head[1:], "big")
    if kind not in _KINDS or length > MAX_BODY_BYTES:
        raise FormatError(f"{head!r} does not begin a frame of at most {MAX_BODY_BYTES} bytes")
    return Frame(kind, _exactly(connection, length, deadline))


def _exactly(connection: socket.socket, count: int, deadline: float | None) -> bytes:
    """Returns the next `count` bytes; memory grows with what came, not with what was claimed."""
    data = bytearray()
    while len(data) < count:
        if deadline is not None:
            # Zero would mean "do not wait", which is another error than "too late".
            connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        piece = connection.recv(min(count - len(data), _READ_BYTES))
        if not piece:
            raise EOFError("the other side closed the connection")
        data += piece
    return bytes(data)
