"""Chunks from a broker's retained messages: no host is needed, and each message is read once.

A broker cannot say that it has no such message. So silence must tell: a chunk that many later ones
have overtaken is not there, and a whole window that stays silent means that no more will come. The
host is asked for those (`asked`). The wait is shorter than the time in which a broker counts as
silent: a wrong guess costs one window that comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from trimtab_agent.backoff import Patience
from trimtab_agent.contract import topics
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.errors import TransferTimeoutError
from trimtab_agent.window import WINDOW, Subscriber, Window

TICK_S = 0.25
"""How often a wait looks whether it should end."""


class Line(Protocol):
    """The part of a connection that tells a slow line from a silent one."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""

    @property
    def silent_s(self) -> float | None:
        """How long ago the last byte came; None where that is not known."""


class Connection(Subscriber, Line, Protocol):
    """A connection that also says whether retained messages can be had."""

    @property
    def retains(self) -> bool:
        """Whether the broker keeps retained messages."""


def is_silent(line: Line, waited_s: float) -> bool:
    """Says whether a wait was for a broker that had nothing to say.

    Else the connection is lost, which mends itself, or a message is on its way in pieces.
    """
    silent_s = line.silent_s
    return line.connected and (silent_s is None or silent_s >= waited_s)


class Retained:
    """Chunks under `blob/<sha256>` (`sources.Chunks`).

    Args:
        link: The connection. While it is broken nothing counts as missing; when it is mended it
            subscribes again, and what was open comes.
        window: Chunks to ask for at once.
        timeout_s: Longest silence of the broker.
    """

    def __init__(self, link: Connection, *, window: int = WINDOW, timeout_s: float) -> None:
        self._link = link
        self._window = window
        self._timeout_s = timeout_s

    def fetch(
        self, chunks: Iterable[Chunk], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, bytes]]:
        """See `sources.Chunks`.

        Raises:
            TransferTimeoutError: Some did not come; names the first.
        """
        if not self._link.retains:
            raise TransferTimeoutError("the broker keeps no retained messages")
        open_chunks: dict[str, Chunk] = {}

        def ask() -> Iterator[str]:
            for chunk in chunks:
                topic = topics.blob(chunk.sha256)
                open_chunks[topic] = chunk
                yield topic

        late: list[str] = []
        patience = Patience(longest_s=self._timeout_s)
        with Window(self._link, ask(), size=self._window) as window:
            while not stop() and window.refill():
                message = window.take(min(TICK_S, patience.limit_s))
                if message:
                    patience.came()
                    late += window.drop_overtaken()
                    window.refill()  # what is asked for now is on its way while this is stored
                    yield open_chunks.pop(message.topic), message.payload
                elif is_silent(self._link, window.waited_s):
                    patience.waited(window.waited_s)
                else:
                    patience.restart()
                if patience.is_over:
                    late += window.open
                    break
        if late:
            raise TransferTimeoutError(
                f"nothing came at {late[0]} within {patience.limit_s:g} s: is it published?"
            )
