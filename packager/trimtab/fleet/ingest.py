"""Reports from the devices: stored first, acknowledged after that.

A device keeps a report, and sends it again, until it is acknowledged. So a report arrives at
least once whatever fails, and the store keeps each once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from trimtab.errors import DeviceTimeoutError
from trimtab.fleet.incoming import decode_from_device
from trimtab.fleet.reports import ReportStore
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.messages import Acknowledgement, Progress, Report
from trimtab_agent.errors import FormatError
from trimtab_agent.link import Link

_log = logging.getLogger(__name__)

MAX_DEVICES = 10_000
"""Whose progress is kept: where nobody checks names, a stranger can invent some."""

_POLL_S = 0.5
"""How often a wait looks into the store: another process may be the one that received."""


class Ingest:
    """Receives reports and progress over a link for as long as the link is open.

    Args:
        link: The connection.
        store: Where reports go.
    """

    def __init__(self, link: Link, store: ReportStore) -> None:
        self._link = link
        self._store = store
        self._changed = threading.Condition()
        self._progress: dict[str, Progress] = {}
        link.subscribe(topics.ALL_PROGRESS, self._on_progress)
        link.subscribe(topics.ALL_REPORTS, self._on_report)

    def last_progress(self, device: str) -> Progress | None:
        """Returns the last step that `device` has told of since this began, or None."""
        with self._changed:
            return self._progress.get(device)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until something that devices tell of has come about; says whether it has.

        Args:
            condition: Asked after each report and each progress.
            timeout_s: Longest wait.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def wait_for_report(self, device: str, counter: int, timeout_s: float) -> Report:
        """Returns the report on one assignment, once it is stored.

        Args:
            device: The device.
            counter: The assignment's counter.
            timeout_s: Longest wait.

        Raises:
            DeviceTimeoutError: It did not come; the message says how far the device got.
            StorageError: The store cannot be read.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                report = self._store.find(device, counter)
                if report is not None:
                    return report
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, _POLL_S))
        raise DeviceTimeoutError(
            f"device {device!r} sent no report on assignment {counter} within {timeout_s:g} s; "
            f"{_describe(self.last_progress(device))}"
        )

    def _on_report(self, topic: str, payload: bytes, _properties: dict[str, str]) -> None:
        try:
            report = decode_from_device(topic, payload, Report)
        except FormatError as error:
            # Not acknowledged: only its maker can mend it, and the device still has it.
            _log.warning("refused: %s", error)
            return
        self._store.add(report)
        with self._changed:
            self._changed.notify_all()
        acknowledgement = codec.encode(Acknowledgement(ids=(report.id,)))
        # A handler must not wait. If this is lost, the device asks by sending again.
        self._link.publish(topics.acknowledgement(report.device), acknowledgement)

    def _on_progress(self, topic: str, payload: bytes, _properties: dict[str, str]) -> None:
        try:
            progress = decode_from_device(topic, payload, Progress)
        except FormatError as error:
            _log.warning("refused: %s", error)
            return
        with self._changed:
            self._progress.pop(progress.device, None)
            self._progress[progress.device] = progress
            if len(self._progress) > MAX_DEVICES:
                del self._progress[next(iter(self._progress))]  # the one not heard of for longest
            self._changed.notify_all()


def _describe(progress: Progress | None) -> str:
    if progress is None:
        return "nothing was heard from it: is trimtab-agent running there, on this broker?"
    detail = f" ({progress.detail})" if progress.detail else ""
    return (
        f"the last step it told of is {progress.state!r}{detail}, of assignment {progress.counter}"
    )
