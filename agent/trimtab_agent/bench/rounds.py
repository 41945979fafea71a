"""The turns of two versions, pair by pair, and which of them count."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

from trimtab_agent.bench import environment, statistics
from trimtab_agent.bench.paired import MIN_PAIRS
from trimtab_agent.bench.plan import Plan
from trimtab_agent.bench.protocol import TurnTimes
from trimtab_agent.bench.side import Side
from trimtab_agent.contract.measurement import Energy

_DISTURBED_SHARE = 0.1
# All latency turns together may take so many times what one version's latency pass may take.
_MOST_TIME = 3


@dataclass(frozen=True)
class Round:
    """One latency turn of each version, one right after the other.

    Attributes:
        new: Of the new version.
        running: Of the running one.
        throttled: Whether a throttle counter moved meanwhile; None where there is none.
    """

    new: TurnTimes
    running: TurnTimes
    throttled: bool | None

    @property
    def disturbed(self) -> bool:
        """Whether another process, or the machine's protection of itself, had a hand in it."""
        waited = (self.new.waited_share or 0.0, self.running.waited_share or 0.0)
        return bool(self.throttled) or max(waited) > _DISTURBED_SHARE

    def latency_ns(self, percentile: int) -> tuple[float, float]:
        """Returns a percentile of both turns."""
        new, running = (
            statistics.percentile(sorted(turn.raw_ns), percentile / 100)
            for turn in (self.new, self.running)
        )
        return new, running


def latency_rounds(new: Side, running: Side, plan: Plan) -> list[Round]:
    """Takes turns until `plan.pairs` pairs were not disturbed, or it has to do.

    Whatever raises one of the sides' errors ends it.
    """
    rounds: list[Round] = []
    deadline = time.monotonic() + _MOST_TIME * plan.timed_limit_s
    for first, second in _orders(new, running):
        before = environment.observe()
        turns = {first: first.time(), second: second.time()}
        throttled = environment.compare(before, environment.observe()).throttled
        rounds.append(Round(new=turns[new], running=turns[running], throttled=throttled))
        calm = sum(not entry.disturbed for entry in rounds)
        late = time.monotonic() > deadline and len(rounds) >= MIN_PAIRS
        if calm >= plan.pairs or len(rounds) >= plan.most_pairs or late:
            break
    return rounds


def counted(rounds: Sequence[Round]) -> tuple[list[Round], Literal[50, 95]]:
    """Returns the rounds that count, and the percentile of latency to compare in them.

    These are the rounds that nothing disturbed and their 95th percentiles. If there are too few,
    under a load that never ends, all count, and their medians: the slowest runs then tell of the
    scheduler's time slices, and not of the model.
    """
    calm = [entry for entry in rounds if not entry.disturbed]
    return (calm, 95) if len(calm) >= MIN_PAIRS else (list(rounds), 50)


def energy_rounds(new: Side, running: Side, plan: Plan) -> list[tuple[Energy, Energy]]:
    """Takes `plan.energy_pairs` turns of each version under the power sensor."""
    rounds = []
    for first, second in itertools.islice(_orders(new, running), plan.energy_pairs):
        turns = {first: first.watch(), second: second.watch()}
        rounds.append((turns[new], turns[running]))
    return rounds


def net_mj(rounds: Sequence[tuple[Energy, Energy]]) -> list[tuple[float, float]]:
    """Returns the net energies by round; none at all if the sensor failed in one of them."""
    pairs = [
        (new.net_mj, running.net_mj)
        for new, running in rounds
        if new.net_mj is not None and running.net_mj is not None
    ]
    return pairs if len(pairs) == len(rounds) else []


def total_energy(turns: Sequence[Energy]) -> Energy:
    """Returns the energy of one inference over all turns of a version, at least one.

    Figures of a turn count by its inferences. The uncertainty is the turns' mean: it does not
    shrink with their number, because the part that the sensor's scale causes is the same in all.
    """
    if any(turn.net_mj is None for turn in turns):
        return next(turn for turn in turns if turn.net_mj is None)
    inferences = [turn.inferences or 0 for turn in turns]

    def mean(values: Sequence[float | None]) -> float:
        # statistics.fmean has no weights before Python 3.11.
        weighed = zip(values, inferences, strict=True)
        return fsum((value or 0.0) * weight for value, weight in weighed) / sum(inferences)

    return Energy(
        level=turns[0].level,
        source=turns[0].source,
        scope=turns[0].scope,
        gross_mj=mean([turn.gross_mj for turn in turns]),
        net_mj=mean([turn.net_mj for turn in turns]),
        net_uncertainty_mj=mean([turn.net_uncertainty_mj for turn in turns]),
        idle_power_mw=mean([turn.idle_power_mw for turn in turns]),
        load_power_mw=mean([turn.load_power_mw for turn in turns]),
        inferences=sum(inferences),
        reason=next((turn.reason for turn in turns if turn.reason), None),
    )


def _orders(new: Side, running: Side) -> Iterator[tuple[Side, Side]]:
    """Yields who comes first and who second: A B, B A, A B, ..."""
    return itertools.cycle([(new, running), (running, new)])
