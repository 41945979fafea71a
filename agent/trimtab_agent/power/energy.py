"""The energy of one inference: idle, load, idle, each watched by the same sensor."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from trimtab_agent.contract.measurement import Energy
from trimtab_agent.errors import DeviceError
from trimtab_agent.power.base import EnergyCounter, PowerSampler
from trimtab_agent.power.trace import (
    BLOCKS,
    Reading,
    Window,
    energy_per_inference,
    window_of_counter,
    window_of_samples,
)

# Samples come at random moments: at a fixed rate they lock to a periodic load and are wrong by
# tens of per cent however long they go on (arXiv 2206.10377 measured up to 80 %).
_JITTER = 0.5
_MIN_INTERVAL_S = 0.02
# Reading takes at most this share of the time, unless that would leave too few samples.
_MAX_COST = 0.01
_MIN_SAMPLES = 64


def measure_energy(
    source: EnergyCounter | PowerSampler,
    run: Callable[[], object],
    *,
    idle_s: float,
    load_s: float,
) -> Energy:
    """Measures one inference.

    Call it with the model loaded and warm, so that idle and load differ by the inferences alone.

    Args:
        source: The sensor.
        run: One inference.
        idle_s: Idle time before, and again after.
        load_s: Time under load; at least one inference is run.

    Returns:
        The energy; level `none` with the reason when the sensor fails on the way.
    """
    inferences = 0

    def load() -> None:
        nonlocal inferences
        deadline = time.monotonic() + load_s
        while inferences == 0 or time.monotonic() < deadline:
            run()
            inferences += 1

    def idle() -> None:
        time.sleep(idle_s)

    try:
        before = _watch(source, idle, expected_s=idle_s)
        loaded = _watch(source, load, expected_s=load_s)
        after = _watch(source, idle, expected_s=idle_s)
    except _SensorError as error:
        return Energy(level="none", reason=f"{source.name} failed while measuring: {error}")
    return energy_per_inference(source, before, loaded, after, inferences=inferences)


class _SensorError(Exception):
    """The sensor failed. Kept apart from a DeviceError of the model that is being run."""


def _watch(
    source: EnergyCounter | PowerSampler, work: Callable[[], None], *, expected_s: float
) -> Window:
    """Does `work` while a thread reads the sensor; the first and last readings enclose it."""
    read = _reader(source)
    readings = [read()]
    pause_s = _pause(source, cost_s=time.monotonic() - readings[0].time_s, expected_s=expected_s)
    done = threading.Event()
    failures: list[_SensorError] = []

    def keep_reading() -> None:
        try:
            while not done.wait(pause_s()):
                readings.append(read())
        except _SensorError as error:
            failures.append(error)

    thread = threading.Thread(target=keep_reading, name="power", daemon=True)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]
    readings.append(read())
    if isinstance(source, EnergyCounter):
        return window_of_counter(readings)
    return window_of_samples(readings)


def _reader(source: EnergyCounter | PowerSampler) -> Callable[[], Reading]:
    """Returns a function that reads the sensor, with the moment just before the reading."""
    value = source.read_uj if isinstance(source, EnergyCounter) else source.sample_mw

    def read() -> Reading:
        now_s = time.monotonic()
        try:
            return Reading(time_s=now_s, value=value())
        except DeviceError as error:
            raise _SensorError(str(error)) from error

    return read


def _pause(
    source: EnergyCounter | PowerSampler, *, cost_s: float, expected_s: float
) -> Callable[[], float]:
    """Returns a function that gives the time to the next reading, in seconds."""
    if isinstance(source, EnergyCounter):
        return lambda: expected_s / BLOCKS  # nothing is missed in between
    interval_s = min(max(_MIN_INTERVAL_S, cost_s / _MAX_COST), expected_s / _MIN_SAMPLES)
    # Chance that nobody gains from guessing: no need for a cryptographic generator.
    return lambda: interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
