"""Telling a device to do something now, and waiting for what it says."""

from __future__ import annotations

import logging
import threading
import time

from trimtab.errors import DeviceTimeoutError
from trimtab.fleet.incoming import decode_from_device
from trimtab.package.sign import Repository
from trimtab_agent.contract import topics
from trimtab_agent.contract.commands import Action, CommandReply
from trimtab_agent.errors import FormatError
from trimtab_agent.link import Link

_log = logging.getLogger(__name__)

RESEND_S = 5.0
"""A command is not kept by the broker: it is sent again while the device may be reconnecting. The
device does it once."""


class Console:
    """Sends commands over a link, for as long as the link is open.

    Args:
        link: The connection.
        repository: Signs the commands.
    """

    def __init__(self, link: Link, repository: Repository) -> None:
        self._link = link
        self._repository = repository
        self._changed = threading.Condition()
        self._replies: dict[tuple[str, int], CommandReply | None] = {}
        """By device and counter, those that are waited for; None until it comes."""
        link.subscribe(topics.ALL_REPLIES, self._on_reply)

    def tell(
        self, device: str, action: Action, *, lines: int | None = None, timeout_s: float
    ) -> CommandReply:
        """Has a device do something, and returns its reply.

        Args:
            device: The device; it must be online.
            action: What to do.
            lines: For `logs`: how many.
            timeout_s: Longest wait.

        Raises:
            CallerError: The device id cannot be used.
            DeviceTimeoutError: It did not answer.
            RepositoryError: The repository lacks the assignment key.
            BrokerError: There is no connection.
        """
        command = self._repository.orders.new_command(device, action, lines=lines)
        message = self._repository.orders.sign_command(command)
        key = device, command.counter
        with self._changed:
            self._replies[key] = None
        try:
            reply = self._wait_for(key, message, timeout_s)
        finally:
            with self._changed:
                del self._replies[key]
        if reply is None:
            raise DeviceTimeoutError(
                f"device {device!r} did not answer the command {action!r} within {timeout_s:g} s: "
                f"is it online, and not busy with an update? (trimtab device list)"
            )
        return reply

    def _wait_for(
        self, key: tuple[str, int], message: bytes, timeout_s: float
    ) -> CommandReply | None:
        """Sends a command until its reply has come, or no longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._link.publish(topics.command(key[0]), message)
            wait_s = min(RESEND_S, deadline - time.monotonic())
            with self._changed:
                if self._changed.wait_for(lambda: self._replies[key], max(wait_s, 0)):
                    return self._replies[key]
        return None

    def _on_reply(self, topic: str, payload: bytes, _properties: dict[str, str]) -> None:
        try:
            reply = decode_from_device(topic, payload, CommandReply)
        except FormatError as error:
            _log.warning("refused: %s", error)
            return
        with self._changed:
            if (reply.device, reply.counter) in self._replies:
                self._replies[reply.device, reply.counter] = reply
                self._changed.notify_all()
