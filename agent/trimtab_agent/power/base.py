"""The port for power sensors: some count energy, others tell the power of a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from trimtab_agent.contract.measurement import EnergyLevel
from trimtab_agent.errors import DeviceError

Scope = Literal["soc", "module", "board", "wall"]
"""What a sensor sees: the chip, the module, the board with its peripherals, or the mains plug."""


class PowerSource(Protocol):
    """What every sensor says of itself.

    Attributes:
        name: Kind and place, such as `rapl:package-0`.
        level: How sure a figure from it is.
        scope: What it sees.
        gain_error: Relative standard uncertainty of its scale; None where nobody has stated one.
        note: What a reader of its figures must know; empty if nothing.
    """

    name: str
    level: EnergyLevel
    scope: Scope
    gain_error: float | None
    note: str


@runtime_checkable
class EnergyCounter(PowerSource, Protocol):
    """A sensor that counts energy by itself, so that nothing is missed between two readings."""

    def read_uj(self) -> int:
        """Returns the energy in microjoules since some fixed moment; it never falls.

        Raises:
            DeviceError: The sensor cannot be read.
        """
        ...


@runtime_checkable
class PowerSampler(PowerSource, Protocol):
    """A sensor that tells the power of the moment.

    Attributes:
        resolution_mw: Smallest step of a reading, None where it is not known.
    """

    resolution_mw: float | None

    def sample_mw(self) -> float:
        """Returns the power in milliwatts; positive is consumption.

        A reading near zero may be slightly negative: that is one step of the converter, and
        cutting it off would shift the mean.

        Raises:
            DeviceError: The sensor cannot be read.
        """
        ...


def read_text(path: Path) -> str:
    """Returns the content of a small file of the kernel's, without blanks at its ends.

    Raises:
        DeviceError: It cannot be read; sensors that are switched off fail with ENODATA, EIO or
            EAGAIN.
    """
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"{path} cannot be read: {error}") from error


def read_int(path: Path) -> int:
    """Returns the number in a file of the kernel's.

    Raises:
        DeviceError: It cannot be read, or holds no whole number.
    """
    text = read_text(path)
    try:
        return int(text)
    except ValueError as error:
        raise DeviceError(f"{path} holds {text[:40]!r}, not a number") from error
