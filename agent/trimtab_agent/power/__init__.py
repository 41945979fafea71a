"""Power sensors, one file per kind behind one port, and the energy of one inference.

A joule is never reported without its source, what that source sees, and how sure it is. Where
nothing can be measured, the figures are None with a reason: never an estimate from a data sheet.
"""

from __future__ import annotations

from trimtab_agent.power.base import EnergyCounter, PowerSampler, PowerSource
from trimtab_agent.power.detect import Detection, detect
from trimtab_agent.power.energy import measure_energy

__all__ = [
    "Detection",
    "EnergyCounter",
    "PowerSampler",
    "PowerSource",
    "detect",
    "measure_energy",
]
