"""Finds the best power sensor of a machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from trimtab_agent.errors import DeviceError
from trimtab_agent.power import ina, rapl
from trimtab_agent.power.base import EnergyCounter, PowerSampler

_ROOT = Path("/")

# By level of evidence, best first: a counter misses nothing between two readings.
_FINDERS: tuple[Callable[[Path], EnergyCounter | PowerSampler], ...] = (rapl.find, ina.find)


class Detection(msgspec.Struct, kw_only=True, frozen=True):
    """What was found.

    Attributes:
        source: A sensor that has given a real reading, or None.
        reason: Why there is none; empty if there is one.
    """

    source: EnergyCounter | PowerSampler | None
    reason: str


def detect(root: Path = _ROOT) -> Detection:
    """Returns the best sensor that gives a reading.

    A driver that loads is no proof: some report a device and then fail every reading.

    Args:
        root: The folder that `sys` is in: `/` but for tests.
    """
    reasons = []
    for find in _FINDERS:
        try:
            return Detection(source=find(root), reason="")
        except DeviceError as error:
            reasons.append(str(error))
    return Detection(source=None, reason="; ".join(reasons))
