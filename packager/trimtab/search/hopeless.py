"""Candidates that need no trial, because what others measured can only be worse for them. Pure.

A miss rules out further candidates in two ways:

1. A trial that misses wire size, latency, memory or energy rules out what is at most as harsh on
   the same runtime: it is no smaller and no faster.
2. A trial that misses accuracy rules out what is at least as harsh, on any runtime: it answers no
   better.

Both only if the trial is over its limit by more than `MARGINS`, within which the order of two
candidates is chance. A failed trial rules nothing out, and neither does an item without a figure.

An int8 file is smaller, at a quarter of the bytes per weight. But on some devices a runtime is
slower in int8 or needs more memory, so what int8 misses on the device says nothing of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.search import model
from trimtab.search.candidates import Candidate, at_least_as_harsh
from trimtab.search.trial import Trial
from trimtab.search.verdict import Item, Miss, verdict
from trimtab_agent.contract.manifest import Budget

MARGINS: dict[Item, float] = {
    "wire_bytes": 0.0,  # counted, not measured
    "latency_p95_us": 0.1,
    "peak_memory_bytes": 0.02,
    "energy_mj": 0.1,
    "accuracy_drop": model.ACCURACY_DROP.noise_sd,
}
"""How far over its limit a trial must be to rule out others: as a share of the limit, and for
accuracy as a drop on top of it (0.004 is 0.4 points)."""


def hopeless(
    candidates: Sequence[Candidate], trials: Sequence[Trial], budget: Budget
) -> tuple[Candidate, ...]:
    """Returns the untried candidates that the trials have shown to miss the budget, in order."""
    tried = {trial.candidate.id for trial in trials}
    evidence = [
        _Evidence(trial=trial.candidate, item=miss.item)
        for trial in trials
        for miss in verdict(trial, budget).misses
        if _is_clear(miss)
    ]
    return tuple(
        candidate
        for candidate in candidates
        if candidate.id not in tried and any(_rules_out(one, candidate) for one in evidence)
    )


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """A candidate whose trial clearly missed the limit of an item."""

    trial: Candidate
    item: Item


def _is_clear(miss: Miss) -> bool:
    """Says whether a miss is more than noise."""
    margin = MARGINS[miss.item]
    if miss.item != "accuracy_drop":
        margin *= miss.limit
    return miss.value > miss.limit + margin


def _rules_out(one: _Evidence, candidate: Candidate) -> bool:
    """Says whether a clear miss shows that a candidate misses too."""
    if one.item == "accuracy_drop":
        return at_least_as_harsh(candidate, than=one.trial)
    comparable = one.item == "wire_bytes" or candidate.precision == one.trial.precision
    return (
        comparable
        and candidate.target == one.trial.target
        and at_least_as_harsh(one.trial, than=candidate)
    )
