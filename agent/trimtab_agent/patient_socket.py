"""A socket that a slow or malicious peer cannot hold for ever, and that can be told to stop.

A socket's own time limit starts anew with every byte. So a peer that sends a byte now and then
keeps its reader for days, in the body, in a header or in the length of a chunk. Here the limit
grows with what has come: whatever the protocol above is reading, a peer that stays below
`MIN_BYTES_PER_S` is given up.
"""

from __future__ import annotations

import io
import select
import socket
import time
from collections.abc import Callable
from typing import Any

MIN_BYTES_PER_S = 1000
"""Half of what GPRS, the slowest line that devices are found on, gives."""

_ASK_S = 0.5
"""How often a wait looks whether it should end."""


class StopReading(Exception):  # noqa: N818 - no error: the caller said so
    """The reader was told to stop."""


class PatientSocket:
    """Wraps a connected socket as far as `http.client` uses one.

    Args:
        connection: The socket, with or without TLS.
        timeout_s: Longest silence; also how far a slow peer may fall behind.
    """

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        # What TLS has decrypted already is invisible to poll().
        self._pending: Callable[[], int] = getattr(connection, "pending", lambda: 0)
        self.start(lambda: False)

    def start(self, stop: Callable[[], bool]) -> None:
        """Starts the clock for one request and its answer.

        Args:
            stop: Asked while waiting; once it says True the wait raises `StopReading`.
        """
        self._stop = stop
        self._started = self._last = time.monotonic()
        self._received_bytes = 0

    def received(self, count: int) -> None:
        """Counts bytes that came."""
        self._received_bytes += count
        self._last = time.monotonic()

    def wait(self) -> None:
        """Waits until there is something to read, or the end of the connection.

        Raises:
            TimeoutError: The peer was silent for too long, or is too slow.
            StopReading: The caller was told to stop.
        """
        slow_at = self._started + self._timeout_s + self._received_bytes / MIN_BYTES_PER_S
        silent_at = self._last + self._timeout_s
        while not self._pending():
            left_s = min(slow_at, silent_at) - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(
                    f"{self._received_bytes} bytes in {time.monotonic() - self._started:.0f} s"
                )
            if self._stop():
                raise StopReading
            if self._poll.poll(1000 * min(left_s, _ASK_S)):
                return

    def sendall(self, data: Any) -> None:
        """Sends everything."""
        self._connection.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Returns a reader of bytes; the socket stays open until both are closed."""
        raw = self._connection.makefile("rb", buffering=0)
        return io.BufferedReader(_Reader(raw, self))

    def close(self) -> None:
        """Closes the socket, once its readers are closed."""
        self._connection.close()


class _Reader(io.RawIOBase):
    """What a `PatientSocket` receives."""

    def __init__(self, raw: io.RawIOBase, owner: PatientSocket) -> None:
        self._raw = raw
        self._owner = owner

    def readable(self) -> bool:
        """Says yes."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Waits for bytes no longer than the owner allows."""
        self._owner.wait()
        count = self._raw.readinto(buffer)
        self._owner.received(count or 0)
        return count

    def close(self) -> None:
        """Lets go of the socket."""
        self._raw.close()
        super().close()
