"""The agent's last log lines and steps, kept in memory so that the host can ask for them."""

from __future__ import annotations

import collections
import logging

from trimtab_agent.contract.commands import MAX_LOG_LINES
from trimtab_agent.contract.messages import Progress


class LogRing(logging.Handler):
    """Keeps the newest `MAX_LOG_LINES` records, each as one line of text."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._lines: collections.deque[str] = collections.deque(maxlen=MAX_LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one record."""
        self._lines.append(self.format(record).replace("\n", " | "))

    def step(self, progress: Progress) -> None:
        """Keeps a step of an update, which is printed and not logged."""
        words = f"{progress.target}: {progress.state}"
        if progress.detail:
            words += f" ({progress.detail})"
        self.emit(logging.makeLogRecord({"levelname": "INFO", "msg": words}))

    def last(self, lines: int) -> tuple[str, ...]:
        """Returns the newest `lines` lines, oldest first."""
        return tuple(self._lines)[-lines:]
