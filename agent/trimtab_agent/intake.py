"""Takes chunks out of the stream of MQTT packets before paho-mqtt reads it.

paho reads a packet's header byte by byte, copies its payload four times and makes objects of what
a chunk does not have, which takes longer than to receive, hash and store the chunk. An `Intake` is
the socket that paho reads from: it takes out the PUBLISH packets that are for an `Inbox`, and gives
paho every other byte as it came. Connections, TLS, subscriptions and acknowledgements stay paho's.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from trimtab_agent.contract.chunks import MAX_CHUNK_BYTES
from trimtab_agent.window import WINDOW, Inbox

MAX_PACKET_BYTES = MAX_CHUNK_BYTES + 64 * 1024
"""Nothing larger has a place in Trimtab. The broker is told to drop it (MQTT 5.0, 3.1.2.11.4), and
one that sends it is left: paho would collect a packet of 256 MB in memory."""

READ_AHEAD_BYTES = 2048
"""Read to see what comes. The rest of a chunk is received in one piece."""

HEAD_BYTES = 256
"""Of a PUBLISH packet, enough to know its topic; a longer topic is left to paho."""

LONGEST_HIDDEN_S = 5.0
"""paho must see a packet now and then, or its keep-alive (60 s) takes the connection for dead. So
on a line on which that matters, it gets every chunk."""

_PUBLISH_QOS_0 = 0x30
"""First byte of the packet (MQTT 5.0, section 3.3.1), but for its last bit: retained."""

_MAX_LENGTH_BYTES = 4


class Intake:
    """A connected socket without the messages that are for inboxes.

    It has what paho asks of a socket (`paho.mqtt.client.SocketLike`), and the socket's options.

    Args:
        connection: The socket, which must be non-blocking before anything is received.
        find_inbox: Given a topic, returns who takes its messages, or None: they are paho's.
    """

    def __init__(
        self, connection: socket.socket, find_inbox: Callable[[str], Inbox | None]
    ) -> None:
        self._connection = connection
        self.close = connection.close
        self.fileno = connection.fileno
        self.getsockopt = connection.getsockopt
        self.send = connection.send
        self.setblocking = connection.setblocking
        self.setsockopt = connection.setsockopt
        self._find_inbox = find_inbox
        self._ahead = b""
        """Read, and given to nobody yet."""
        self._for_paho = 0
        """How many of the next bytes are paho's."""
        self._arriving: _Arrival | None = None
        self._ready = False
        """Whether there is more to do although no byte may come."""
        self._hidden_since = time.monotonic()

    def pending(self) -> int:
        """Returns how many bytes can be had although `select` knows of none; 1 or more if any."""
        decrypted: int = getattr(self._connection, "pending", int)()  # by TLS
        return max(decrypted, int(self._ready))

    def recv(self, size_bytes: int) -> bytes:
        """Returns up to `size_bytes` of paho's bytes; none at the end of the stream.

        Raises:
            BlockingIOError: There are none now; `ssl.SSLWantReadError` says the same.
            ConnectionError: The broker sends a packet that is too large.
        """
        self._ready = False
        for _ in range(WINDOW):
            if self._for_paho:
                return self._give(size_bytes)
            if not self._take_packet():
                return b""
        self._ready = True
        raise BlockingIOError  # paho's turn: it may have something to send

    def shutdown(self, how: int) -> None:
        """Ends the connection for both sides.

        Raises:
            OSError: It has ended.
        """
        # Not SSLSocket's own: it turns the socket into a plain one first, while another thread
        # may be writing.
        socket.socket.shutdown(self._connection, how)

    def _give(self, size_bytes: int) -> bytes:
        size_bytes = min(size_bytes, self._for_paho)
        if self._ahead:
            data, self._ahead = self._ahead[:size_bytes], self._ahead[size_bytes:]
        else:
            data = self._connection.recv(size_bytes)
        self._for_paho -= len(data)
        self._ready = bool(self._ahead)
        return data

    def _take_packet(self) -> bool:
        """Takes in the next packet, or leaves it to paho; says False at the end of the stream."""
        if self._arriving is None:
            while (begin := read_begin(self._ahead)) is None:
                more = self._connection.recv(READ_AHEAD_BYTES - len(self._ahead))
                if not more:
                    return False
                self._ahead += more
            if begin.packet_bytes > MAX_PACKET_BYTES:
                raise ConnectionError(f"a packet of {begin.packet_bytes} bytes")
            inbox = self._inbox_for(begin)
            if inbox is None:
                self._for_paho = begin.packet_bytes
                self._hidden_since = time.monotonic()
                return True
            start = self._ahead[begin.packet_bytes - begin.payload_bytes : begin.packet_bytes]
            self._ahead = self._ahead[begin.packet_bytes :]
            self._arriving = _Arrival(inbox, begin, start)
        if not self._arriving.receive(self._connection):
            return False
        self._arriving = None
        return True

    def _inbox_for(self, begin: Begin) -> Inbox | None:
        if begin.topic is None or begin.payload_bytes > MAX_CHUNK_BYTES:
            return None
        if time.monotonic() - self._hidden_since > LONGEST_HIDDEN_S:
            return None
        return self._find_inbox(begin.topic)


class _Arrival:
    """A message of which a part has come."""

    def __init__(self, inbox: Inbox, begin: Begin, start: bytes) -> None:
        self._inbox = inbox
        self._topic = begin.topic or ""
        self._pieces = [start]
        self._lacking_bytes = begin.payload_bytes - len(start)

    def receive(self, connection: socket.socket) -> bool:
        """Receives the rest and hands the message over; says False at the end of the stream.

        Raises:
            BlockingIOError: The rest did not come yet; `ssl.SSLWantReadError` says the same.
        """
        while self._lacking_bytes:
            piece = connection.recv(self._lacking_bytes)
            if not piece:
                return False
            self._pieces.append(piece)
            self._lacking_bytes -= len(piece)
        self._inbox(self._topic, b"".join(self._pieces), {})
        return True


class Begin(NamedTuple):
    """What the first bytes of a packet tell."""

    packet_bytes: int
    topic: str | None
    """Of a PUBLISH packet with QoS 0 and without properties; None for any other."""
    payload_bytes: int


def read_begin(data: bytes) -> Begin | None:
    """Reads how a packet begins (MQTT 5.0, sections 2.1 and 3.3), or None: more is needed."""
    length = _read_length(data)
    if length is None:
        return None
    header_bytes, remaining_bytes = length
    packet_bytes = header_bytes + remaining_bytes
    if data[0] & 0xFE != _PUBLISH_QOS_0 or remaining_bytes == sys.maxsize:
        return Begin(packet_bytes, None, 0)
    if len(data) < min(packet_bytes, HEAD_BYTES):
        return None
    topic_at = header_bytes + 2
    topic_end = topic_at + int.from_bytes(data[header_bytes:topic_at], "big")
    # The byte behind the topic is the length of the properties.
    if topic_end >= min(packet_bytes, HEAD_BYTES) or data[topic_end]:
        return Begin(packet_bytes, None, 0)
    try:
        topic = data[topic_at:topic_end].decode()
    except UnicodeDecodeError:
        return Begin(packet_bytes, None, 0)
    return Begin(packet_bytes, topic, packet_bytes - topic_end - 1)


def _read_length(data: bytes) -> tuple[int, int] | None:
    """Returns the length of the fixed header and of the rest (MQTT 5.0, section 1.5.5).

    One that makes no sense is beyond any limit.
    """
    length = 0
    for place, byte in enumerate(data[1 : 1 + _MAX_LENGTH_BYTES]):
        length |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return place + 2, length
    return None if len(data) <= _MAX_LENGTH_BYTES else (0, sys.maxsize)
