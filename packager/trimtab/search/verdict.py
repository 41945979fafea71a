"""The verdict on a trial: does it keep the budget, as far as that was measured? Pure.

What cannot be measured is never passed in silence. A budget item that has no figure, such as
energy on a board without a sensor, makes the verdict `unproven`, and the verdict says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from trimtab.search.trial import Trial
from trimtab_agent.contract.manifest import Budget, Evaluation

Item = Literal["wire_bytes", "latency_p95_us", "peak_memory_bytes", "energy_mj", "accuracy_drop"]
"""An item of the budget, by its name in `Budget`."""


class Miss(msgspec.Struct, kw_only=True, frozen=True):
    """A budget item that was measured and is over its limit."""

    item: Item
    limit: float
    value: float

    @property
    def excess(self) -> float:
        """How far over: 1 is twice the limit.

        Accuracy counts in points where the limit is under one: a limit of zero, missed by a
        sample, is not infinitely bad.
        """
        unit = max(self.limit, 0.01) if self.item == "accuracy_drop" else max(self.limit, 1e-9)
        return (self.value - self.limit) / unit


class Unproven(msgspec.Struct, kw_only=True, frozen=True):
    """A budget item that has a limit but no figure.

    Attributes:
        item: Which.
        why: The reason, for people.
        everywhere: Whether no other candidate can have the figure either, so that it is no use
            to try one for its sake.
    """

    item: Item
    why: str
    everywhere: bool


class Verdict(msgspec.Struct, kw_only=True, frozen=True):
    """What a trial came to.

    Attributes:
        outcome: `met`: every item of the budget was measured and kept. `unproven`: none was
            seen missed, but at least one has no figure. `missed`: at least one is over its
            limit. `failed`: there is no working package to judge.
        misses: The items over their limits.
        unproven: The items without a figure.
    """

    outcome: Literal["met", "unproven", "missed", "failed"]
    misses: tuple[Miss, ...] = ()
    unproven: tuple[Unproven, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the whole budget was measured and kept."""
        return self.outcome == "met"

    @property
    def as_good_as_possible(self) -> bool:
        """Whether nothing is missed, and what is unproven stays so for every candidate."""
        return self.met or (
            self.outcome == "unproven" and all(item.everywhere for item in self.unproven)
        )

    @property
    def worst_excess(self) -> float:
        """The largest `Miss.excess`, 0 without a miss."""
        return max((miss.excess for miss in self.misses), default=0.0)


def verdict(trial: Trial, budget: Budget) -> Verdict:
    """Judges a trial by a budget.

    Without labels, accuracy is judged by the share of samples that are answered otherwise than
    by the original: the drop cannot be larger. If that share is within the limit, the limit is
    kept; if not, the drop is unproven.
    """
    if trial.built is None or trial.failure is not None:
        return Verdict(outcome="failed")
    misses: list[Miss] = []
    unproven: list[Unproven] = []
    for item, judge in _JUDGES.items():
        limit = getattr(budget, item)
        if limit is None:
            continue
        found = judge(trial, limit)
        if isinstance(found, Unproven):
            unproven.append(found)
        elif found > limit:
            misses.append(Miss(item=item, limit=limit, value=found))
    return Verdict(
        outcome="missed" if misses else "unproven" if unproven else "met",
        misses=tuple(misses),
        unproven=tuple(unproven),
    )


def accuracy_drop(evaluation: Evaluation | None) -> float | None:
    """Returns the loss of accuracy against the original, negative for a gain; None if unknown."""
    if evaluation is None or evaluation.value is None or evaluation.reference is None:
        return None
    return evaluation.reference - evaluation.value


def largest_drop(evaluation: Evaluation | None) -> float | None:
    """Returns the drop, or without labels the most that it can be; None without either.

    Where answers are classes, an answer that is the original's is as right as the original's. Of
    numbers that are nearly the original's nothing of the kind can be said.
    """
    drop = accuracy_drop(evaluation)
    if drop is not None or evaluation is None or evaluation.agreement is None:
        return drop
    counted = evaluation.agreement_metric in {None, "same_top1", "same_tokens"}
    return 1 - evaluation.agreement if counted else None


def _wire(trial: Trial, _limit: float) -> float | Unproven:
    """The size on the wire is known of every package."""
    assert trial.built is not None
    return trial.built.sizes.wire_bytes


def _latency(trial: Trial, limit: float) -> float | Unproven:
    """The 95th percentile needs runs enough to be one.

    With too few it is at least the 90th, and that at least the median: one of these over the limit
    settles it, as it does at the device's gate (`trimtab_agent.gates`).
    """
    if trial.measurement is None:
        return _not_measured("latency_p95_us")
    latency = trial.measurement.latency
    if latency.p95_us is None:
        at_least_us = latency.p50_us if latency.p90_us is None else latency.p90_us
        if at_least_us > limit:
            return at_least_us
        why = f"{latency.count} timed runs are too few for a 95th percentile"
        return Unproven(item="latency_p95_us", why=why, everywhere=False)
    return latency.p95_us


def _memory(trial: Trial, _limit: float) -> float | Unproven:
    """The device must spare the whole process, not only what the model added to it."""
    if trial.measurement is None:
        return _not_measured("peak_memory_bytes")
    return trial.measurement.memory.peak_rss_bytes


def _energy(trial: Trial, _limit: float) -> float | Unproven:
    """A device that cannot tell its energy cannot tell it of any other candidate either."""
    if trial.measurement is None:
        return _not_measured("energy_mj")
    energy = trial.measurement.energy
    if energy.level == "none" or energy.net_mj is None:
        why = f"energy was not measured: {energy.reason or 'no reason was given'}"
        return Unproven(item="energy_mj", why=why, everywhere=True)
    return energy.net_mj


def _accuracy(trial: Trial, limit: float) -> float | Unproven:
    """Labels give the drop; without them, agreement gives its upper bound."""
    drop = accuracy_drop(trial.evaluation)
    if drop is not None:
        return drop
    bound = largest_drop(trial.evaluation)
    if bound is None:
        why = "there was no data to evaluate on"
        if trial.evaluation is not None:
            why = f"without labels, {trial.evaluation.agreement_metric} does not bound the drop"
        return Unproven(item="accuracy_drop", why=why, everywhere=True)
    if bound > limit:
        why = f"without labels, all that is known is that the drop is at most {bound:.2%}"
        return Unproven(item="accuracy_drop", why=why, everywhere=False)
    return bound


def _not_measured(item: Item) -> Unproven:
    return Unproven(item=item, why="the device has not measured it", everywhere=False)


_JUDGES: dict[Item, Callable[[Trial, float], float | Unproven]] = {
    "wire_bytes": _wire,
    "latency_p95_us": _latency,
    "peak_memory_bytes": _memory,
    "energy_mj": _energy,
    "accuracy_drop": _accuracy,
}
