"""Times of several files beside each other on a machine that other jobs share.

The files take turns in short rounds, so that a disturbance hits all alike. Of a round the 5th
percentile counts, in wall and in processor time: a run that was not interrupted. Files are compared
round by round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Run = Callable[[], object]
"""One inference."""

ROUNDS = 15
ROUND_SECONDS = 0.2
MIN_RUNS, MAX_RUNS = 8, 1000
PERCENTILE = 5


@dataclass(frozen=True)
class Times:
    """What one file took, one number a round.

    Attributes:
        wall_us: Elapsed time of a run.
        processor_us: Time that the process's threads were at work in a run.
    """

    wall_us: NDArray[np.float64]
    processor_us: NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """How many times the time of another file: the median of the rounds, and their 10 and 90 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"


def time_rounds(runs: Mapping[str, Run], rounds: int = ROUNDS) -> dict[str, Times]:
    """Times each in every round; a round before the first warms up."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            measured = _round_us(run)
            if number:
                found[name].append(measured)
    return {
        name: Times(*(np.array(column) for column in zip(*rows, strict=True)))
        for name, rows in found.items()
    }


def ratio(times: Times, other: Times, kind: str = "processor_us") -> Ratio:
    """Returns the time of one as a multiple of another's; `kind` is a field of `Times`."""
    ratios = getattr(times, kind) / getattr(other, kind)
    return Ratio(float(np.median(ratios)), *map(float, np.quantile(ratios, (0.1, 0.9))))


def fastest(times: Mapping[str, Times]) -> str:
    """Returns the name of the file with the least median processor time."""
    return min(times, key=lambda name: float(np.median(times[name].processor_us)))


def _round_us(run: Run) -> tuple[float, float]:
    """Returns the 5th percentiles of wall and processor time of one round's runs."""
    walls, processors = [], []
    end = time.perf_counter() + ROUND_SECONDS
    while len(walls) < MAX_RUNS and (len(walls) < MIN_RUNS or time.perf_counter() < end):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        processors.append(time.process_time() - processor)
        walls.append(time.perf_counter() - wall)
    return tuple(float(np.percentile(column, PERCENTILE) * 1e6) for column in (walls, processors))
