"""Measures a model on the machine it runs on: golden samples, latency, memory and energy.

Every model runs in a child process, so this package imports neither numpy nor a runtime.
"""

from __future__ import annotations

from trimtab_agent.bench.alternate import compare
from trimtab_agent.bench.inventory import inventory
from trimtab_agent.bench.measure import check_golden, measure, time_operators
from trimtab_agent.bench.plan import NORMAL, QUICK, Plan
from trimtab_agent.bench.player import Subject

__all__ = [
    "NORMAL",
    "QUICK",
    "Plan",
    "Subject",
    "check_golden",
    "compare",
    "inventory",
    "measure",
    "time_operators",
]
