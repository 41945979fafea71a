"""What the host can tell a device to do now, and what the device answers.

A command is signed like an assignment, by the same online key, and takes its counter from the same
sequence. So a device knows the order of everything it was told: a command that was held back, and
is let through after a newer assignment or command, is refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trimtab_agent.contract.measurement import Measurement
from trimtab_agent.contract.messages import Counter, Inventory

COMMAND_CONTEXT = b"trimtab command v1\n"
"""Put before the payload when it is signed: a signed assignment can never pass for a command."""

Action = Literal["measure", "inventory", "logs", "roll_back", "pause", "resume"]
"""What to do:

* `measure`: measure the active model again.
* `inventory`: tell what the device is.
* `logs`: tell the agent's last log lines.
* `roll_back`: make the version before the active one active again.
* `pause`: begin nothing new. What is assigned waits; the active model goes on running.
* `resume`: go on.
"""

MAX_LOG_LINES = 1000


class Command(msgspec.Struct, kw_only=True, frozen=True):
    """One command for one device.

    Attributes:
        device: The device it is for; any other device refuses it.
        counter: Above that of everything the device was told before.
        action: What to do.
        issued: UTC, RFC 3339.
        expires: UTC, RFC 3339; refused afterwards.
        lines: For `logs`: how many.
    """

    device: str
    counter: Counter
    action: Action
    issued: str
    expires: str
    lines: Annotated[int, msgspec.Meta(ge=1, le=MAX_LOG_LINES)] = 200


class CommandFailure(msgspec.Struct, kw_only=True, frozen=True):
    """Why a command was not carried out: the error's stable word, and its text."""

    reason: str
    message: str


class CommandReply(msgspec.Struct, kw_only=True, frozen=True):
    """What came of a command. What it did not ask for is None.

    Attributes:
        device: The device.
        counter: The command's counter.
        action: The command's action.
        active: TUF target name of the package that is active afterwards, or None.
        paused: Whether the device begins nothing new.
        failure: Why it was not done, or None.
        measurement: For `measure`.
        inventory: For `inventory`.
        logs: For `logs`, oldest first; the newest that fit the message.
    """

    device: str
    counter: Counter
    action: Action
    active: str | None
    paused: bool
    failure: CommandFailure | None = None
    measurement: Measurement | None = None
    inventory: Inventory | None = None
    logs: tuple[str, ...] | None = None
