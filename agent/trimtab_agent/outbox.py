"""Sending reports until the host says that it has stored them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import Report
from trimtab_agent.errors import BrokerError
from trimtab_agent.report_room import without_raw
from trimtab_agent.state import Memory

_log = logging.getLogger(__name__)
FIRST_DELAY_S = 5.0
LONGEST_DELAY_S = 300.0
"""Delays double from the first to the longest: a host that is away for a day is not flooded."""


def delay_s(attempts: int) -> float:
    """Returns the time to wait for an acknowledgement after the `attempts`-th sending, from 1."""
    return float(min(FIRST_DELAY_S * 2 ** min(attempts - 1, 16), LONGEST_DELAY_S))


def fit_report(report: bytes, limit_bytes: int | None) -> bytes:
    """Returns a report that fits a message: without the raw latencies if it must be.

    Args:
        report: The report in JSON.
        limit_bytes: Largest payload that the broker takes, or None if it named no limit.
    """
    if limit_bytes is None or len(report) <= limit_bytes:
        return report
    value = codec.decode(report, Report, what="a report in the outbox")
    if value.measurement is None:
        return report
    _log.warning("report %s is too large for the broker: its raw latencies are left out", value.id)
    return codec.encode(without_raw(value))


class Outbox:
    """The reports that are not acknowledged yet.

    Args:
        memory: Where they are kept.
        send: Publishes one report; raises `BrokerError` when there is no connection.
        clock: Seconds from any start, never backwards.
    """

    def __init__(
        self,
        memory: Memory,
        send: Callable[[bytes], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory = memory
        self._send = send
        self._clock = clock
        self._attempts: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._memory.outbox)

    def send_due(self) -> float | None:
        """Sends every report whose time has come.

        Returns:
            Seconds until the next one is due, or None when there is none.
        """
        now = self._clock()
        ids = self._memory.outbox
        for id_ in ids:
            if self._due.get(id_, now) <= now:
                self._attempts[id_] = self._attempts.get(id_, 0) + 1
                self._due[id_] = now + delay_s(self._attempts[id_])
                try:
                    self._send(self._memory.report(id_))
                except BrokerError:
                    return FIRST_DELAY_S  # a new connection calls `reconnected` before that
        return min((self._due.get(id_, now) - now for id_ in ids), default=None)

    def reconnected(self) -> None:
        """Makes every report due at once, with the delays from the start."""
        self._attempts.clear()
        self._due.clear()

    def acknowledge(self, ids: tuple[str, ...]) -> None:
        """Drops the reports that the host has stored."""
        self._memory.acknowledge(ids)
        for id_ in ids:
            self._attempts.pop(id_, None)
            self._due.pop(id_, None)
