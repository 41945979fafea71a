"""From readings of a sensor to the energy of one inference, with its uncertainty. Pure.

    net = (P_load - P_idle) * T / N
    u(net)^2 = (T / N)^2 * (u(P_load)^2 + u(P_idle)^2 + (gain * (P_load - P_idle))^2)

The mean of n readings that follow each other is less certain than the spread over sqrt(n) says,
because power changes slowly: at an autocorrelation of 0.9 by a factor of 4. So the readings are
put into blocks, and the spread of the blocks' means is taken (Flyvbjerg and Petersen, J. Chem.
Phys. 91, 461 (1989)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

import msgspec

from trimtab_agent.contract.measurement import Energy
from trimtab_agent.power.base import PowerSampler, PowerSource

BLOCKS = 8

# Idle before and after must agree within this share, or something else was going on.
_DRIFT_SHARE = 0.05


class Reading(msgspec.Struct, kw_only=True, frozen=True):
    """One reading: a power in milliwatts, or a counter in microjoules, at a monotonic time."""

    time_s: float
    value: float


class Window(msgspec.Struct, kw_only=True, frozen=True):
    """What the sensor saw between two moments.

    Attributes:
        duration_s: From the first reading to the last.
        mean_mw: Mean power.
        block_mw: Mean power of blocks of equal weight, in order.
        spread_mw: Standard deviation of single readings; None for a counter.
    """

    duration_s: float
    mean_mw: float
    block_mw: tuple[float, ...]
    spread_mw: float | None

    def standard_error_mw(self, resolution_mw: float | None) -> float:
        """Returns the standard uncertainty of the mean, the sensor's steps included.

        Args:
            resolution_mw: One step of the sensor, None where it is not known or a counter's.
        """
        blocks = len(self.block_mw)
        random_mw = stdev(self.block_mw) / math.sqrt(blocks) if blocks > 1 else 0.0
        return math.hypot(random_mw, self._rounding_mw(resolution_mw))

    def _rounding_mw(self, resolution_mw: float | None) -> float:
        """Returns what the converter's steps add.

        Noise of a quarter of a step and more makes readings fall on both sides, and their mean
        sees between the steps; with less, the mean may be off by half a step however long one
        measures.
        """
        if resolution_mw is None or self.spread_mw is None:
            return 0.0
        if self.spread_mw < resolution_mw / 4:
            return resolution_mw / 2
        return resolution_mw / math.sqrt(12 * len(self.block_mw))


def window_of_counter(readings: Sequence[Reading]) -> Window:
    """Returns what a counter saw: differences of its readings, at least two."""
    block_mw = tuple(
        (right.value - left.value) / (right.time_s - left.time_s) / 1000  # uJ/s is uW
        for left, right in pairwise(readings)
        if right.time_s > left.time_s
    )
    duration_s = readings[-1].time_s - readings[0].time_s
    return Window(
        duration_s=duration_s,
        mean_mw=(readings[-1].value - readings[0].value) / duration_s / 1000,
        block_mw=block_mw,
        spread_mw=None,
    )


def window_of_samples(readings: Sequence[Reading]) -> Window:
    """Returns what a sampled sensor saw: trapezoids between its readings, at least two.

    Blocks hold equally many readings; with few readings there are fewer blocks.
    """
    size = max(2, len(readings) // BLOCKS)
    starts = range(0, len(readings) - size + 1, size)
    return Window(
        duration_s=readings[-1].time_s - readings[0].time_s,
        mean_mw=_mean_mw(readings),
        block_mw=tuple(_mean_mw(readings[start : start + size]) for start in starts),
        spread_mw=stdev(reading.value for reading in readings),
    )


def energy_per_inference(
    source: PowerSource, before: Window, load: Window, after: Window, *, inferences: int
) -> Energy:
    """Returns the energy of one inference.

    Args:
        source: The sensor.
        before: Idle, before the load.
        load: While the model ran.
        after: Idle, after the load.
        inferences: Runs in `load`, at least 1.
    """
    idle_mw = (before.mean_mw + after.mean_mw) / 2
    net_mw = load.mean_mw - idle_mw
    resolution_mw = source.resolution_mw if isinstance(source, PowerSampler) else None
    errors_mw = (
        load.standard_error_mw(resolution_mw),
        before.standard_error_mw(resolution_mw) / 2,
        after.standard_error_mw(resolution_mw) / 2,
        (source.gain_error or 0.0) * net_mw,
    )
    run_s = load.duration_s / inferences
    return Energy(
        level=source.level,
        source=source.name,
        scope=source.scope,
        gross_mj=load.mean_mw * run_s,  # mW * s is mJ
        net_mj=net_mw * run_s,
        net_uncertainty_mj=math.hypot(*errors_mw) * run_s,
        idle_power_mw=idle_mw,
        load_power_mw=load.mean_mw,
        inferences=inferences,
        reason="; ".join(_cautions(source, before, after)) or None,
    )


def _cautions(source: PowerSource, before: Window, after: Window) -> list[str]:
    """Returns what a reader of the figures must beware of."""
    cautions = [source.note] if source.note else []
    if source.gain_error is None:
        cautions.append("the sensor's scale has no stated error: uncertainty is statistical only")
    if abs(after.mean_mw - before.mean_mw) > _DRIFT_SHARE * abs(before.mean_mw):
        cautions.append(
            f"idle power moved from {before.mean_mw:.0f} to {after.mean_mw:.0f} mW: something "
            "else was running"
        )
    return cautions


def _mean_mw(readings: Sequence[Reading]) -> float:
    """Returns the mean power over time; of readings at one and the same moment, the plain mean."""
    duration_s = readings[-1].time_s - readings[0].time_s
    if duration_s <= 0:
        return fmean(reading.value for reading in readings)
    area = sum(
        (left.value + right.value) / 2 * (right.time_s - left.time_s)
        for left, right in pairwise(readings)
    )
    return area / duration_s
