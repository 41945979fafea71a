"""Log lines to standard error, but not more than a person or a disk can take.

Whoever can publish at the broker causes a line with each message that is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MAX_LINES = 200
PERIOD_S = 60.0


class LimitedHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic for mypy only
    """Writes `MAX_LINES` records in each `PERIOD_S`, and how many it left out.

    Args:
        clock: Seconds from any start, never backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._began = clock()
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, or counts it."""
        if self._clock() - self._began >= PERIOD_S:
            left_out = self._lines - MAX_LINES
            self._began, self._lines = self._clock(), 0
            if left_out > 0:
                self._write("%d more lines were left out", left_out)
        self._lines += 1
        if self._lines <= MAX_LINES:
            super().emit(record)

    def _write(self, message: str, *arguments: object) -> None:
        super().emit(
            logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, arguments, None)
        )
