"""Holds what was measured against what a package may cost. Pure: numbers in, verdicts out.

Two rules, because the two kinds of limit are for different harms (docs/measuring.md):

* A limit of the budget is a promise to the application. The figure itself decides.
* A limit against the running version guards against a step back. Two measurements of the same
  model differ by chance, so a package is stopped only when the whole 95 % confidence interval of
  the ratio lies above the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from trimtab_agent.contract.manifest import Budget
from trimtab_agent.contract.measurement import Comparison, Energy, GateResult, Latency, Measurement
from trimtab_agent.contract.messages import Gates

Gate = Literal["latency", "memory", "energy"]
Interval = tuple[float, float]

# Standard uncertainties that a 95 % interval reaches to either side (normal distribution).
_NORMAL_95 = 1.96


def judge(
    measurement: Measurement, comparison: Comparison | None, budget: Budget, gates: Gates
) -> tuple[GateResult, ...]:
    """Judges a new version by every limit that is asked for.

    Args:
        measurement: Of the new version.
        comparison: With the running version; None where there is none to compare with, and then
            no limit against it is judged.
        budget: The manifest's. Its `wire_bytes` and `accuracy_drop` are no gates: the host has
            judged them.
        gates: Which limits count.

    Returns:
        One result for each limit, those of the budget first. A limit that is None gives none.
    """
    against_budget = _against_budget(measurement, budget) if gates.budget else ()
    against_running = _against_running(comparison, gates) if comparison is not None else ()
    return (*against_budget, *against_running)


def _against_budget(measurement: Measurement, budget: Budget) -> Iterator[GateResult]:
    """Yields a result for each limit of the budget that a device can measure."""
    if budget.latency_p95_us is not None:
        yield _latency_in_budget(measurement.latency, budget.latency_p95_us)
    if budget.peak_memory_bytes is not None:
        peak_bytes = measurement.memory.peak_rss_bytes
        yield _by_value("memory", "budget", budget.peak_memory_bytes, peak_bytes)
    if budget.energy_mj is not None:
        energy = measurement.energy
        interval = _energy_interval(energy)
        yield _by_value("energy", "budget", budget.energy_mj, energy.net_mj, interval)


def _against_running(comparison: Comparison, gates: Gates) -> Iterator[GateResult]:
    """Yields a result for each ratio that is limited."""
    if gates.latency_ratio is not None:
        yield _by_interval(
            "latency", gates.latency_ratio, comparison.latency_ratio, comparison.latency_interval
        )
    if gates.memory_ratio is not None:
        # The kernel's count of pages hardly varies from one run to the next: no interval.
        yield _by_value("memory", "running", gates.memory_ratio, comparison.memory_ratio)
    if gates.energy_ratio is not None:
        yield _by_interval(
            "energy", gates.energy_ratio, comparison.energy_ratio, comparison.energy_interval
        )


def _latency_in_budget(latency: Latency, limit_us: float) -> GateResult:
    """Judges the 95th percentile, or what bounds it from below.

    With too few runs for a 95th percentile it is at least the 90th, and that at least the median.
    One of these above the limit settles it: a model so slow that it cannot be measured in time
    must not slip through. One below settles nothing.
    """
    if latency.p95_us is not None:
        return _by_value("latency", "budget", limit_us, latency.p95_us, latency.p95_interval_us)
    at_least_us = latency.p50_us if latency.p90_us is None else latency.p90_us
    proven = at_least_us > limit_us
    return _by_value("latency", "budget", limit_us, at_least_us if proven else None)


def _by_value(
    gate: Gate,
    against: Literal["budget", "running"],
    limit: float,
    value: float | None,
    interval: Interval | None = None,
) -> GateResult:
    """Judges by the figure itself."""
    return GateResult(
        gate=gate,
        against=against,
        limit=limit,
        value=value,
        interval=interval,
        verdict="unknown" if value is None else "missed" if value > limit else "kept",
    )


def _by_interval(
    gate: Gate, limit: float, value: float | None, interval: Interval | None
) -> GateResult:
    """Judges a ratio by its whole interval: what may be chance stops nothing."""
    if interval is None:
        verdict: Literal["kept", "missed", "unknown"] = "unknown"
    else:
        verdict = "missed" if interval[0] > limit else "kept"
    return GateResult(
        gate=gate,
        against="running",
        limit=limit,
        value=value,
        interval=interval,
        verdict=verdict,
    )


def _energy_interval(energy: Energy) -> Interval | None:
    """Returns the 95 % interval of the net energy, if its uncertainty is known."""
    if energy.net_mj is None or energy.net_uncertainty_mj is None:
        return None
    reach_mj = _NORMAL_95 * energy.net_uncertainty_mj
    return energy.net_mj - reach_mj, energy.net_mj + reach_mj
