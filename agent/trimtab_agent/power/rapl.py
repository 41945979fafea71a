"""Energy counters of x86 processors, through the kernel's powercap files.

Linux, Documentation/power/powercap/powercap.rst: `energy_uj` counts microjoules and falls back
to zero after `max_energy_range_uj`. Each zone wraps on its own, so each is unfolded on its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from trimtab_agent.contract.measurement import EnergyLevel
from trimtab_agent.errors import DeviceError
from trimtab_agent.power.base import Scope, read_int, read_text

_POWERCAP = Path("sys/class/powercap")

# `intel-rapl:0` and `intel-rapl:0:2`, on AMD too. `intel-rapl-mmio:0` counts the same package
# once more, so it does not match.
_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")

# `core` and `uncore` are parts of the package, and `psys` contains it: adding them would count
# twice. `dram` lies outside.
_COUNTED = re.compile(r"package-\d+|dram")


class RaplCounter:
    """The packages, and their memory where it is counted, as one `EnergyCounter`."""

    level: EnergyLevel = "counter"
    scope: Scope = "soc"
    gain_error: float | None = None  # no maker states one
    note = "processor only: not the board, disks or power supply"

    def __init__(self, zones: Sequence[Zone]) -> None:
        self._zones = zones
        self.name = "rapl:" + "+".join(zone.name for zone in zones)

    def read_uj(self) -> int:
        """Returns the microjoules since this object was made.

        It must be called more often than a zone wraps: at 65 W that is about once an hour.

        Raises:
            DeviceError: A zone cannot be read.
        """
        return sum(zone.read_uj() for zone in self._zones)


class Zone:
    """One powercap zone with its wrap-around unfolded."""

    def __init__(self, folder: Path) -> None:
        self.name = read_text(folder / "name")
        self._file = folder / "energy_uj"
        self._range_uj = read_int(folder / "max_energy_range_uj")
        self._last_uj = read_int(self._file)
        self._total_uj = 0

    def read_uj(self) -> int:
        """Returns the microjoules since this object was made."""
        now_uj = read_int(self._file)
        self._total_uj += unfold(self._last_uj, now_uj, self._range_uj)
        self._last_uj = now_uj
        return self._total_uj


def unfold(before_uj: int, after_uj: int, range_uj: int) -> int:
    """Returns the energy between two readings of a counter that wraps at most once."""
    step = after_uj - before_uj
    return step if step >= 0 else step + range_uj


def find(root: Path) -> RaplCounter:
    """Returns the counter of this machine, after one real reading.

    Args:
        root: The folder that `sys` is in: `/` but for tests.

    Raises:
        DeviceError: There is none, or it cannot be read; says why and what to do.
    """
    base = root / _POWERCAP
    folders = sorted(path for path in base.glob("intel-rapl:*") if _ZONE.fullmatch(path.name))
    wanted = [folder for folder in folders if _COUNTED.fullmatch(read_text(folder / "name"))]
    if not wanted:
        raise DeviceError(f"no RAPL package zone in {base}")
    try:
        return RaplCounter([Zone(folder) for folder in wanted])
    except DeviceError as error:
        if isinstance(error.__cause__, PermissionError):
            # CVE-2020-8694 (PLATYPUS): fine-grained energy leaks secrets of other processes.
            raise DeviceError(
                f"RAPL is there but root alone may read {wanted[0] / 'energy_uj'} (since "
                "CVE-2020-8694); a udev rule can give the agent's group read access"
            ) from error
        raise
