"""The state of the machine around a measurement, from the kernel's files.

Only observed: the governor and the clocks stay as they were found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trimtab_agent.contract.measurement import Environment

_ROOT = Path("/")

# Names of sensors of a processor or its chip: `x86_pkg_temp` and `coretemp` (Intel), `k10temp`
# (AMD), `cpu-thermal` (Raspberry Pi, Tegra), `tj-thermal` (hottest point of a Tegra).
_PROCESSOR = re.compile(r"cpu|soc|pkg|^tj|coretemp|k10temp", re.IGNORECASE)

# Tegra reports -256 degrees for a sensor whose block is switched off.
_COLDEST_C = -60.0

# Counters that rise when the processor is held back. Intel: thermal_throttle. Tegra: over-current
# events of the soctherm_oc driver.
_THROTTLE_GLOBS = (
    "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count",
    "sys/class/hwmon/hwmon*/oc*_event_cnt",
)


class Observation(msgspec.Struct, kw_only=True, frozen=True):
    """One look at the machine. None and empty stand for what cannot be read.

    Attributes:
        governor: Frequency governor of CPU 0.
        frequency_mhz: Frequency of CPU 0.
        temperatures_c: Processor sensors by their file.
        throttle_counts: Throttle counters by their file.
        load_average: Over one minute.
        on_battery: Whether a battery is being discharged.
    """

    governor: str | None
    frequency_mhz: float | None
    temperatures_c: dict[str, float]
    throttle_counts: dict[str, int]
    load_average: float | None
    on_battery: bool | None


def observe(root: Path = _ROOT) -> Observation:
    """Looks at the machine.

    Args:
        root: The folder that `sys` and `proc` are in: `/` but for tests.
    """
    cpu = root / "sys/devices/system/cpu/cpu0/cpufreq"
    load = _text(root / "proc/loadavg")
    return Observation(
        governor=_text(cpu / "scaling_governor"),
        frequency_mhz=_frequency_mhz(root),
        temperatures_c=dict(_temperatures(root)),
        throttle_counts={
            str(path): count
            for pattern in _THROTTLE_GLOBS
            for path in root.glob(pattern)
            if (count := _integer(path)) is not None
        },
        load_average=float(load.split()[0]) if load else None,
        on_battery=_on_battery(root),
    )


def compare(before: Observation, after: Observation) -> Environment:
    """Returns what two looks say together.

    The temperature is that of the sensor which was hottest before. A throttle counter is judged
    by whether it rose, never by its level: it counts since boot.
    """
    hottest = max(before.temperatures_c, key=before.temperatures_c.__getitem__, default=None)
    moved = [
        after.throttle_counts[name] != count
        for name, count in before.throttle_counts.items()
        if name in after.throttle_counts
    ]
    return Environment(
        governor=before.governor,
        frequency_start_mhz=before.frequency_mhz,
        frequency_end_mhz=after.frequency_mhz,
        temperature_start_c=None if hottest is None else before.temperatures_c[hottest],
        temperature_end_c=None if hottest is None else after.temperatures_c.get(hottest),
        throttled=any(moved) if moved else None,
        load_average=before.load_average,
        on_battery=before.on_battery,
    )


def _frequency_mhz(root: Path) -> float | None:
    """Returns the frequency of CPU 0: from cpufreq, else as x86 prints it in cpuinfo."""
    khz = _integer(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if khz is not None:
        return khz / 1000
    match = re.search(r"^cpu MHz\s*:\s*([\d.]+)", _text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return float(match[1]) if match else None


def _temperatures(root: Path) -> Iterator[tuple[str, float]]:
    """Yields the processor's sensors that give a reading, in degrees Celsius."""
    readings = [
        (zone / "type", [zone / "temp"]) for zone in root.glob("sys/class/thermal/thermal_zone*")
    ]
    readings += [
        (chip / "name", sorted(chip.glob("temp*_input")))
        for chip in root.glob("sys/class/hwmon/hwmon*")
    ]
    for name, files in readings:
        if not _PROCESSOR.search(_text(name) or ""):
            continue
        for file in files:
            millidegrees = _integer(file)
            if millidegrees is not None and millidegrees / 1000 > _COLDEST_C:
                yield str(file), millidegrees / 1000


def _on_battery(root: Path) -> bool | None:
    """Says whether a battery of the machine is discharging; None if it has none."""
    states = [
        _text(supply / "status")
        for supply in root.glob("sys/class/power_supply/*")
        if _text(supply / "type") == "Battery"
        and _text(supply / "scope") != "Device"  # a mouse or a pen has its own
    ]
    return "Discharging" in states if states else None


def _integer(path: Path) -> int | None:
    """Returns the number in a file of the kernel's, or None."""
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    """Returns what a file of the kernel's holds, or None if it cannot be read.

    Sensors that are switched off fail with EAGAIN, ENODATA or EIO.
    """
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
