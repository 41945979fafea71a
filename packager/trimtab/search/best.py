"""The choice among trials. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.search.trial import Trial
from trimtab.search.verdict import largest_drop, verdict
from trimtab_agent.contract.manifest import Budget

_ORDER = {"met": 0, "unproven": 1, "missed": 2}


def best(trials: Sequence[Trial], budget: Budget) -> Trial | None:
    """Returns the best trial, or None if none gave a working package.

    A trial that keeps the whole budget beats one that leaves something unproven, and that beats
    one that misses. Among those that miss, the smallest worst excess wins. Then come the
    smallest loss of accuracy, the shortest median latency and the smallest size on the wire;
    what is unknown comes last.
    """
    usable = [trial for trial in trials if verdict(trial, budget).outcome != "failed"]
    return min(usable, key=lambda trial: rank(trial, budget), default=None)


def rank(trial: Trial, budget: Budget) -> tuple[float, ...]:
    """Returns a key by which better trials sort first; the trial must have a working package."""
    judged = verdict(trial, budget)
    drop = largest_drop(trial.evaluation)
    return (
        _ORDER[judged.outcome],
        judged.worst_excess,
        math.inf if drop is None else drop,
        math.inf if trial.measurement is None else trial.measurement.latency.p50_us,
        math.inf if trial.built is None else trial.built.sizes.wire_bytes,
    )
