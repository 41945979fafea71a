"""Messages from devices: decoded, and from whom they say they are."""

from __future__ import annotations

from typing import TypeVar

from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.commands import CommandReply
from trimtab_agent.contract.messages import Progress, Report, Status
from trimtab_agent.errors import FormatError

M = TypeVar("M", Report, Progress, Status, CommandReply)


def decode_from_device(topic: str, payload: bytes, kind: type[M]) -> M:
    """Decodes a message that a device published.

    A broker with access rules lets a device write to its own topics only, so the topic tells who
    sent it; a message that names another device is refused.

    Args:
        topic: Where it came.
        payload: What came.
        kind: What it should be.

    Raises:
        FormatError: It is something else, or names another device than the topic.
    """
    message = codec.decode(payload, kind, what=f"message on {topic}")
    if topics.device_of(topic) != message.device:
        raise FormatError(f"message on {topic} claims to be from {message.device!r}")
    return message
