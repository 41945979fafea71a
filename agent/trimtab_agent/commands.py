"""Doing what the host asks for now: measure, tell, roll back, pause.

Whoever can publish on the broker can send something here. A message that proves nothing is logged
and not answered; one that is signed is answered even when it cannot be done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import msgspec

from trimtab_agent.allowance import Allowance
from trimtab_agent.contract import codec
from trimtab_agent.contract.commands import Command, CommandFailure, CommandReply
from trimtab_agent.contract.measurement import Measurement
from trimtab_agent.contract.messages import Inventory, Report
from trimtab_agent.errors import CallerError, InterruptedUpdateError, TrimtabError, TrustError
from trimtab_agent.version import Version

_log = logging.getLogger(__name__)

_INTERRUPTED = CommandFailure(
    reason=InterruptedUpdateError.reason,
    message="the device went down meanwhile, or its disk refused: see what is active there, and "
    "order it again if need be",
)

LOG_BYTES = 64 * 1024
"""Of log lines in one reply: it fits every broker's limit, JSON's escapes included."""


class Told(Protocol):
    """What the device has been told, through power cuts; `trimtab_agent.state.Memory` is it."""

    @property
    def counter(self) -> int | None:
        """Counter of the last assignment that was accepted."""

    @property
    def last_command(self) -> tuple[int, bytes] | None:
        """Counter of the last command that was done, and the reply to it."""

    def answer(self, counter: int, reply: bytes) -> None:
        """Remembers both."""


class Controls(Protocol):
    """What commands need of `trimtab_agent.updater.Updater`."""

    @property
    def paused(self) -> bool:
        """Whether nothing new is begun."""

    def pause(self) -> None:
        """Begins nothing new from now on."""

    def resume(self) -> None:
        """Goes on."""

    def roll_back(self) -> Report | None:
        """Makes the version before the active one active; None if there is none."""


class Gauges(Protocol):
    """What commands need of `trimtab_agent.adapters.DeviceBench`."""

    def inventory(self) -> Inventory:
        """Returns what this device is."""

    def measure(self, version: Version) -> Measurement:
        """Measures a version."""


class Commands:
    """One device's ear for commands.

    Args:
        verify: Returns the command in a signed message, checked as an assignment is: signature,
            device, expiry.
        told: What was done before.
        updater: Pauses and rolls back.
        bench: Measures.
        active: Returns the active version.
        logs: Returns the newest log lines.
        clock: Returns the time in UTC.
        allowance: How many messages that prove nothing are looked at.
    """

    def __init__(
        self,
        *,
        verify: Callable[[bytes, datetime], Command],
        told: Told,
        updater: Controls,
        bench: Gauges,
        active: Callable[[], Version | None],
        logs: Callable[[int], tuple[str, ...]],
        clock: Callable[[], datetime],
        allowance: Allowance,
    ) -> None:
        self._verify = verify
        self._told = told
        self._updater = updater
        self._bench = bench
        self._active = active
        self._logs = logs
        self._clock = clock
        self._allowance = allowance

    @property
    def listening(self) -> bool:
        """Whether a message would be looked at: strangers have not used up their allowance."""
        return self._allowance.wait_s() == 0.0

    def handle(self, signed: bytes) -> bytes | None:
        """Does what a message says, once.

        Args:
            signed: The message as it came.

        Returns:
            The reply, the same one if the message came before; None for a message that is not
            to be answered.

        Raises:
            StorageError: What was done cannot be remembered.
        """
        if not self.listening:
            return None
        try:
            command = self._verify(signed, self._clock())
            known = self._known_reply(command)
        except TrimtabError as error:
            _log.warning("a command is refused: %s", error)
            self._spend()
            return None
        if known is not None:
            self._spend()  # the host asks again, or it is a replay
            return known
        _log.info("command %d: %s", command.counter, command.action)
        if command.action == "roll_back":
            # Done a second time it would go back a second time: a power cut, or a disk that
            # refuses the reply, must not bring that about when the host asks again.
            self._told.answer(command.counter, codec.encode(self._reply(command, _INTERRUPTED)))
        reply = codec.encode(self._do(command))
        self._told.answer(command.counter, reply)
        return reply

    def _spend(self) -> None:
        self._allowance.spend()
        if not self.listening:
            _log.warning("no command is looked at for %.0f s", self._allowance.wait_s())

    def _known_reply(self, command: Command) -> bytes | None:
        """Returns the reply to a command that was done before, or None for a new one.

        Raises:
            TrustError: Something newer was told to this device already.
        """
        counter, reply = self._told.last_command or (0, b"")
        if command.counter == counter:
            return reply
        newest = max(counter, self._told.counter or 0)
        if command.counter <= newest:
            raise TrustError(
                f"the command {command.action!r} has counter {command.counter}; {newest} was "
                f"seen before: it was held back or is replayed"
            )
        return None

    def _do(self, command: Command) -> CommandReply:
        try:
            found = self._act(command)
        except TrimtabError as error:
            _log.warning("command %d, %s: %s", command.counter, command.action, error)
            return self._reply(command, CommandFailure(reason=error.reason, message=str(error)))
        return self._reply(command, **found)

    def _reply(
        self, command: Command, failure: CommandFailure | None = None, **found: Any
    ) -> CommandReply:
        version = self._active()
        return CommandReply(
            device=command.device,
            counter=command.counter,
            action=command.action,
            active=version.manifest.target_name if version else None,
            paused=self._updater.paused,
            failure=failure,
            **found,
        )

    def _act(self, command: Command) -> dict[str, Any]:
        """Does it, and returns the fields of the reply that it asks for."""
        if command.action == "measure":
            return {"measurement": self._bench.measure(self._running())}
        if command.action == "inventory":
            return {"inventory": self._bench.inventory()}
        if command.action == "logs":
            return {"logs": newest_that_fit(self._logs(command.lines), LOG_BYTES)}
        if command.action == "roll_back":
            if self._updater.roll_back() is None:
                raise CallerError("there is no version to go back to on this device")
        elif command.action == "pause":
            self._updater.pause()
        else:
            self._updater.resume()
        return {}

    def _running(self) -> Version:
        version = self._active()
        if version is None:
            raise CallerError("nothing is active on this device: assign a package to it first")
        return version


def newest_that_fit(lines: tuple[str, ...], limit_bytes: int) -> tuple[str, ...]:
    """Returns the last of `lines` whose JSON takes at most `limit_bytes`."""
    room = limit_bytes
    for index in range(len(lines) - 1, -1, -1):
        room -= len(msgspec.json.encode(lines[index])) + 1
        if room < 0:
            return lines[index + 1 :]
    return lines
