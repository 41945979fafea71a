"""A thread that makes calls one after the other, behind a bounded queue."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Worker:
    """Makes calls on a thread of its own. Whoever calls `put` is held back while it is busy.

    Args:
        name: The thread's name.
        length: Calls that may wait.
    """

    def __init__(self, name: str, *, length: int) -> None:
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(length)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    @property
    def is_caller(self) -> bool:
        """Whether the caller runs on this worker's thread."""
        return threading.current_thread() is self._thread

    def put(self, call: Callable[[], None]) -> None:
        """Hands over a call; waits while the queue is full, and drops it once closing."""
        while not self._closing.is_set():
            try:
                self._calls.put(call, timeout=0.5)
            except queue.Full:
                continue
            return

    def close(self) -> None:
        """Ends the thread after the call that it is making; those that wait are dropped."""
        self._closing.set()
        with contextlib.suppress(queue.Full):  # a full queue wakes the thread as well
            self._calls.put_nowait(None)
        if not self.is_caller:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            call = self._calls.get()
            if call is None:
                return
            try:
                call()
            except Exception:  # noqa: BLE001 - any fault of one call must not end the others
                _log.exception("a handler failed")
