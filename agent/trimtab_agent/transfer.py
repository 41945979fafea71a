"""The ways by which a package's chunks come from a broker, put together from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from trimtab_agent import asked, retained
from trimtab_agent.asked import Asked
from trimtab_agent.bandwidth import Capped, TokenBucket
from trimtab_agent.broadcast import Broadcast
from trimtab_agent.config import TransferConfig
from trimtab_agent.hours import InHours, parse_hours
from trimtab_agent.retained import Retained
from trimtab_agent.sources import Chunks

Ways = Callable[[str | None], Mapping[str, Chunks]]
"""Given the group of an assignment, returns the sources to try, in order, by their names."""


class Connection(retained.Connection, asked.Connection, Protocol):
    """What all ways together need of a connection."""


def mqtt_ways(link: Connection, *, device: str, timeout_s: float) -> Ways:
    """Returns the ways over a broker: a group's broadcast, retained messages, the host's answers.

    Args:
        link: The connection.
        device: This device's id.
        timeout_s: Longest silence.
    """

    def ways(group: str | None) -> dict[str, Chunks]:
        heard = {} if group is None else {"broadcast": Broadcast(link, group, timeout_s=timeout_s)}
        return {
            **heard,
            "retained": Retained(link, timeout_s=timeout_s),
            "asked": Asked(link, device=device, timeout_s=timeout_s),
        }

    return ways


def limited(ways: Ways, settings: TransferConfig, *, tell: Callable[[str], None]) -> Ways:
    """Returns the same ways within the limits that the configuration sets.

    Args:
        ways: Where chunks come from.
        settings: The table `[transfer]`.
        tell: Given a few words when a wait for the hours begins and ends.
    """
    rate = settings.max_bytes_per_s
    bucket = None if rate is None else TokenBucket(rate)
    hours = None if settings.hours is None else parse_hours(settings.hours)

    def inside(source: Chunks) -> Chunks:
        within = source if bucket is None else Capped(source, bucket)
        return within if hours is None else InHours(within, hours, tell=tell)

    def limited_ways(group: str | None) -> dict[str, Chunks]:
        # A broadcast comes at the host's pace: who has a cap does not listen.
        heard = group if bucket is None else None
        return {name: inside(source) for name, source in ways(heard).items()}

    return limited_ways
