"""Answers want-lists: chunks that a device asks for, from the packages of a workspace.

Every chunk that the broker does not retain comes this way: of packages that are no longer kept
ready, and of any package when a broker has forgotten it. Several hosts may serve at once: the
subscription is shared, so that each want-list comes to one of them.
"""

from __future__ import annotations

import logging
import threading

from trimtab.fleet.documents import PUBLISH_TIMEOUT_S
from trimtab.fleet.fair_queue import FairQueue, Request
from trimtab.fleet.library import Library
from trimtab_agent.contract import topics
from trimtab_agent.contract.wants import CORRELATION, MISSING, RESPONSE_TOPIC, decode_want
from trimtab_agent.errors import FormatError, TrimtabError
from trimtab_agent.link import Link

_log = logging.getLogger(__name__)

WORKERS = 8
"""Answers that are under way at once. Each waits for the broker's acknowledgement, so this is
also the window: no more than so many chunks are in this process's memory."""


class ChunkServer:
    """Serves over a link for as long as it is open. Use it as a context manager.

    Args:
        link: The connection.
        library: Where chunks come from.
        share: Name of the group of hosts that serve the same packages (`Shelf.share`).
    """

    def __init__(self, link: Link, library: Library, *, share: str) -> None:
        self._link = link
        self._library = library
        self._wants = f"$share/{share}/{topics.ALL_WANTS}"
        self._queue = FairQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"trimtab-chunks-{number}", daemon=True)
            for number in range(WORKERS)
        ]
        for thread in self._threads:
            thread.start()
        link.subscribe(self._wants, self._on_want)

    def __enter__(self) -> ChunkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops taking want-lists, and waits for the answers that are under way."""
        self._link.unsubscribe(self._wants)
        self._queue.close()
        for thread in self._threads:
            thread.join()

    def _on_want(self, topic: str, payload: bytes, properties: dict[str, str]) -> None:
        try:
            device = topics.device_of(topic)
            # Elsewhere than to its own topic, a device could make the host publish anywhere.
            if properties.get(RESPONSE_TOPIC) != topics.block(device):
                raise FormatError(
                    f"{topic}: wants its answer at {properties.get(RESPONSE_TOPIC)!r}, "
                    f"not at {topics.block(device)}"
                )
            wanted = decode_want(payload, what=topic)
        except TrimtabError as error:
            _log.warning("refused: %s", error)
            return
        correlation = properties.get(CORRELATION, "")
        dropped = self._queue.put([Request(device, sha256, correlation) for sha256 in wanted])
        if dropped:
            _log.warning("%s: %d requests dropped, too many wait", device, dropped)

    def _serve(self) -> None:
        """Answers one request after the other; runs on each worker's thread."""
        while request := self._queue.get():
            try:
                self._answer(request)
            except TrimtabError as error:  # the device asks again
                if self._link.connected:  # the link has told of a lost connection
                    _log.warning("%s", error)

    def _answer(self, request: Request) -> None:
        wire = self._library.read(request.sha256)
        self._link.publish(
            topics.block(request.device),
            b"" if wire is None else wire,
            wait_s=PUBLISH_TIMEOUT_S,
            properties={MISSING: request.sha256} if wire is None else None,
            correlation=bytes.fromhex(request.correlation) or None,
        )
