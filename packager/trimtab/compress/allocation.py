"""How much of each group to keep, from what its loss was measured to do. Pure.

The choice is a knapsack: the least damage for a given cost. It is solved greedily, by taking the
step with the least damage for each unit of cost saved until the budget is met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Damage:
    """What was measured of one group.

    Attributes:
        counts: Numbers of kept classes, falling from all of them.
        losses: What was lost with each; the first is 0.
    """

    counts: tuple[int, ...]
    losses: tuple[float, ...]

    def at(self, count: int) -> float:
        """Return the loss at a count.

        It is measured as a rate: the loss for each channel gone per channel kept. Between measured
        counts the rate lies on a line, and with fewer channels it never falls. So chance makes no
        smaller model better; and where a measured loss stops to rise, because answers that are all
        wrong get no worse, the rest of the group is not free. It would be emptied.
        """
        whole, *measured = self.counts
        if not measured or count == whole:
            return 0.0
        odds = [(whole - each) / each for each in measured]
        rates = np.maximum.accumulate(np.divide(self.losses[1:], odds))
        gone_per_kept = (whole - count) / count
        return float(np.interp(gone_per_kept, odds, rates)) * gone_per_kept


def allocate(
    damages: Sequence[Damage],
    allowed: Sequence[Sequence[int]],
    cost: Callable[[Sequence[int]], float],
    target: float,
) -> list[int]:
    """Choose how many classes each group keeps.

    Args:
        damages: What was measured of each group.
        allowed: For each group, the counts it may have, rising, the last being all.
        cost: The cost with given counts.
        target: What it should be.

    Returns:
        The counts. The cost is the first at or below the target on the way, or the one before,
        whichever is nearer; where nothing is left to drop, the least.
    """
    places = [len(counts) - 1 for counts in allowed]

    def counts_at(where: Sequence[int]) -> list[int]:
        return [counts[place] for counts, place in zip(allowed, where, strict=True)]

    now = cost(counts_at(places))
    while now > target and any(places):
        best, best_cost, best_rate = -1, now, np.inf
        for index, place in enumerate(places):
            if place == 0:
                continue
            tried = [*places[:index], place - 1, *places[index + 1 :]]
            after = cost(counts_at(tried))
            counts = allowed[index]
            lost = damages[index].at(counts[place - 1]) - damages[index].at(counts[place])
            rate = lost / max(now - after, 1e-12)
            if rate < best_rate or (rate == best_rate and after < best_cost):
                best, best_cost, best_rate = index, after, rate
        if best_cost < target and target - best_cost > now - target:
            break
        places[best] -= 1
        now = best_cost
    return counts_at(places)
