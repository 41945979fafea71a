"""Whether a quantized file is faster than its float twin, on this machine.

Both run in turns, so that whatever else the machine does falls on both. Each turn gives one ratio;
of the ratios the median stands for the whole, and order statistics give an interval for it that
supposes nothing of their distribution (Le Boudec 2010, "Performance Evaluation of Computer and
Communication Systems", theorem 2.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import msgspec

_ROUNDS = 11
_SECOND = 1  # the 2nd least and the 2nd largest of 11 cover the median with 98.8 %
_ROUND_S = 0.02
_LEAST_RUNS, _MOST_RUNS = 2, 2000


class Speed(msgspec.Struct, kw_only=True, frozen=True):
    """A quantized file against the float file of the same graph.

    Attributes:
        latency_us: One inference with the quantized file: the median of the rounds.
        float_latency_us: With the float file.
        ratio: The quantized file's time over the float file's: the median of the rounds.
        ratio_interval: Of that median, 98 %.
    """

    latency_us: float
    float_latency_us: float
    ratio: float
    ratio_interval: tuple[float, float]

    @property
    def slower(self) -> bool:
        """Whether the quantized file is slower beyond doubt."""
        return self.ratio_interval[0] > 1


def compare_speed(
    run: Callable[[], object],
    run_float: Callable[[], object],
    *,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Speed:
    """Times two models in turns, about half a second in all for models that take microseconds.

    Args:
        run: One inference with the quantized file.
        run_float: One with its float twin.
        clock_ns: A monotonic clock in nanoseconds.
    """
    runs = [_runs_a_round(each, clock_ns) for each in (run, run_float)]
    rounds = [
        (_time_us(run, runs[0], clock_ns), _time_us(run_float, runs[1], clock_ns))
        for _ in range(_ROUNDS)
    ]
    ratios = sorted(mine / twin for mine, twin in rounds)
    return Speed(
        latency_us=median(mine for mine, _ in rounds),
        float_latency_us=median(twin for _, twin in rounds),
        ratio=median(ratios),
        ratio_interval=(ratios[_SECOND], ratios[-1 - _SECOND]),
    )


def _runs_a_round(run: Callable[[], object], clock_ns: Callable[[], int]) -> int:
    """Warms up, and returns how many runs fill a round."""
    run()
    single_us = min(_time_us(run, 1, clock_ns) for _ in range(3))
    return max(_LEAST_RUNS, min(_MOST_RUNS, round(_ROUND_S * 1e6 / max(single_us, 1e-3))))


def _time_us(run: Callable[[], object], runs: int, clock_ns: Callable[[], int]) -> float:
    """Returns the median time of some runs: a run that was interrupted does not count."""
    times = []
    for _ in range(runs):
        start = clock_ns()
        run()
        times.append(clock_ns() - start)
    return median(times) / 1000
