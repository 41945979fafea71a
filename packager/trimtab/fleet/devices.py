"""Which devices are there, and what they are, by the retained status that each publishes."""

from __future__ import annotations

import logging
import threading
import time

from trimtab.errors import DeviceTimeoutError
from trimtab.fleet.incoming import decode_from_device
from trimtab_agent.contract import topics
from trimtab_agent.contract.messages import Status
from trimtab_agent.errors import FormatError
from trimtab_agent.link import Link

_log = logging.getLogger(__name__)


class Devices:
    """Follows the status of every device over a link for as long as the link is open.

    Args:
        link: The connection.
    """

    def __init__(self, link: Link) -> None:
        self._changed = threading.Condition()
        self._statuses: dict[str, Status] = {}
        link.subscribe(topics.ALL_STATUS, self._on_status)

    def statuses(self) -> dict[str, Status]:
        """Returns the last status of every device, by device id."""
        with self._changed:
            return dict(sorted(self._statuses.items()))

    def wait_for_device(self, device: str, timeout_s: float) -> Status:
        """Returns the status of a device, once it is online.

        Args:
            device: The device.
            timeout_s: Longest wait.

        Raises:
            DeviceTimeoutError: It did not come online; the message names those that are.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                status = self._statuses.get(device)
                if status is not None and status.online:
                    return status
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
        seen = "is offline" if status else "has never been on this broker"
        online = [name for name, other in self.statuses().items() if other.online]
        raise DeviceTimeoutError(
            f"device {device!r} {seen}, after {timeout_s:g} s; online are: "
            f"{', '.join(online) or 'none'}"
        )

    def _on_status(self, topic: str, payload: bytes, _properties: dict[str, str]) -> None:
        if not payload:  # someone cleared the retained status of a device that is gone for good
            with self._changed:
                self._statuses.pop(topics.device_of(topic), None)
            return
        try:
            status = decode_from_device(topic, payload, Status)
        except FormatError as error:
            _log.warning("refused: %s", error)
            return
        with self._changed:
            self._statuses[status.device] = status
            self._changed.notify_all()
