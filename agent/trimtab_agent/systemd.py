"""Telling systemd how the agent is: ready, alive, stopping.

The protocol is a datagram of lines `NAME=value` to the socket in `NOTIFY_SOCKET` (sd_notify(3)).
Where there is no such socket nobody listens, and nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping


class Service:
    """This process as a service of systemd.

    Args:
        environment: Where systemd has left `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
        clock: Seconds from any start, never backwards.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # A name that begins with "@" is one of Linux's abstract sockets (unix(7)).
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._interval_s = _interval_s(environment)
        self._clock = clock
        self._alive_until = clock()
        self._stopped = threading.Event()

    def __enter__(self) -> Service:
        if self._address and self._interval_s:
            threading.Thread(target=self._watch, name="trimtab-watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._send("STOPPING=1")

    def ready(self) -> None:
        """Says that the start is over: a unit of `Type=notify` counts as started from here on."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Gives the line that `systemctl status` shows."""
        self._send("STATUS=" + text.replace("\n", " "))

    def alive(self, for_s: float) -> None:
        """Says that the main thread works, and when to give it up.

        A thread of its own passes this on, since one step may take minutes in a child process.
        Once `for_s` has passed without another call it falls silent, and systemd restarts the
        service.

        Args:
            for_s: The longest that the next step can take, its time-outs included.
        """
        self._alive_until = self._clock() + for_s

    def _watch(self) -> None:
        assert self._interval_s is not None, "only started where systemd wants it"
        while not self._stopped.wait(self._interval_s):
            self.pass_on()

    def pass_on(self) -> None:
        """Sends one sign of life, if the main thread has given one that still holds."""
        if self._clock() <= self._alive_until:
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A full or vanished socket is systemd's business: the agent goes on.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.setblocking(False)
            end.sendto(text.encode(), self._address)


def _interval_s(environment: Mapping[str, str]) -> float | None:
    """Returns how often to send a sign of life: twice in the watchdog's time; None for never."""
    try:
        period_us = int(environment.get("WATCHDOG_USEC", ""))
        # Set for one process only: a child that inherits it must not answer for its parent.
        owner = int(environment.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return period_us / 2e6 if period_us > 0 and owner == os.getpid() else None
