"""INA current and power monitors: built into Jetson modules, or wired to a board over I2C.

Linux, Documentation/hwmon/ina3221.rst, ina2xx.rst and ina238.rst. Units: voltage in mV, current
in mA, `power1_input` in microwatts. Chips are found by name and rails by label, never by number:
hwmon numbers change from boot to boot.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from trimtab_agent.contract.measurement import EnergyLevel
from trimtab_agent.errors import DeviceError
from trimtab_agent.power.base import Scope, read_int, read_text
from trimtab_agent.power.rails import choose_total

# Before JetPack 5 the driver was an industrial I/O device; the chip is the same.
_IIO_GLOB = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"

_SINGLE = re.compile(r"ina(219|220|226|228|230|231|237|238|260)")

# INA3221 data sheet (SBOS576): one step of the shunt voltage is 40 uV.
_INA3221_SHUNT_STEP_UV = 40

# About 0.25 % of the chip and 1 % of a common shunt resistor.
_GAIN_ERROR = 0.01


class Rail(msgspec.Struct, kw_only=True, frozen=True):
    """One measured supply.

    Attributes:
        label: As the board names it; empty where it has no name.
        read_mw: Reads the power in milliwatts.
        resolution_mw: Smallest step, None where it is not known.
    """

    label: str
    read_mw: Callable[[], float]
    resolution_mw: float | None


class InaSampler:
    """The rails that make up the total, as one `PowerSampler`."""

    level: EnergyLevel = "integrated_samples"
    gain_error: float | None = _GAIN_ERROR

    def __init__(self, rails: Sequence[Rail], scope: Scope, note: str) -> None:
        self._rails = rails
        self.name = "ina:" + "+".join(rail.label or "unlabelled" for rail in rails)
        self.scope = scope
        self.note = note
        steps = [rail.resolution_mw for rail in rails if rail.resolution_mw is not None]
        # Steps of independent converters add up like independent errors.
        self.resolution_mw = math.hypot(*steps) if len(steps) == len(rails) else None

    def sample_mw(self) -> float:
        """Returns the power of the moment in milliwatts.

        Raises:
            DeviceError: A rail cannot be read.
        """
        return sum(rail.read_mw() for rail in self._rails)


def find(root: Path) -> InaSampler:
    """Returns the sampler of this machine's total, after one real reading.

    Args:
        root: The folder that `sys` is in: `/` but for tests.

    Raises:
        DeviceError: There is no chip, its rails are unknown, or it cannot be read.
    """
    rails = [*_hwmon_rails(root), *_iio_rails(root)]
    if not rails:
        raise DeviceError(f"no INA power monitor in {root / 'sys'}")
    total = choose_total([rail.label for rail in rails])
    chosen = [rail for rail in rails if rail.label in total.labels]
    sampler = InaSampler(chosen, total.scope, total.note)
    sampler.sample_mw()
    return sampler


def _hwmon_rails(root: Path) -> Iterator[Rail]:
    """Yields the rails of every INA chip under hwmon."""
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        try:
            chip = read_text(folder / "name")
        except DeviceError:
            continue  # another chip's driver, without a name or gone since
        if chip.startswith("ina3221"):
            yield from _ina3221_rails(folder)
        elif _SINGLE.fullmatch(chip):
            yield _single_rail(folder)


def _ina3221_rails(folder: Path) -> Iterator[Rail]:
    """Yields the channels of an INA3221 that are connected.

    Channels 1 to 3 are rails; from 4 on the driver lists shunt voltages and their sum.
    """
    for channel in (1, 2, 3):
        label_file = folder / f"in{channel}_label"
        if not label_file.exists():
            continue
        label = read_text(label_file)
        if "NC" in label.split("_"):
            continue  # not connected: reading it fails
        voltage, current = folder / f"in{channel}_input", folder / f"curr{channel}_input"
        yield Rail(
            label=label,
            read_mw=_product_reader(voltage, current),
            resolution_mw=_ina3221_step_mw(folder / f"shunt{channel}_resistor", voltage),
        )


def _single_rail(folder: Path) -> Rail:
    """Returns the only channel of a one-channel chip, which computes the power itself."""
    label_file = folder / "label"
    power = folder / "power1_input"
    return Rail(
        label=read_text(label_file) if label_file.exists() else "",
        read_mw=lambda: read_int(power) / 1000,
        resolution_mw=None,
    )


def _iio_rails(root: Path) -> Iterator[Rail]:
    """Yields the rails of an INA3221 under JetPack 4, whose driver gives milliwatts."""
    for folder in sorted(root.glob(_IIO_GLOB)):
        for name_file in sorted(folder.glob("rail_name_*")):
            label = read_text(name_file)
            if "NC" in label.split("_"):
                continue
            power = folder / f"in_power{name_file.name.removeprefix('rail_name_')}_input"
            yield Rail(label=label, read_mw=_integer_reader(power), resolution_mw=None)


def _product_reader(voltage: Path, current: Path) -> Callable[[], float]:
    """Returns a reader of mV times mA in milliwatts."""
    return lambda: read_int(voltage) * read_int(current) / 1000


def _integer_reader(path: Path) -> Callable[[], float]:
    """Returns a reader of a file that holds milliwatts."""
    return lambda: float(read_int(path))


def _ina3221_step_mw(shunt: Path, voltage: Path) -> float | None:
    """Returns the power that one step of the shunt voltage stands for, None if unknown."""
    try:
        return _INA3221_SHUNT_STEP_UV / read_int(shunt) * read_int(voltage)
    except (DeviceError, ZeroDivisionError):
        return None
