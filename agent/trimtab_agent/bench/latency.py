"""The latency pass: warm up, time every run, keep every time."""

from __future__ import annotations

import gc
import struct
import time
from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from trimtab_agent.bench import statistics
from trimtab_agent.bench.plan import Plan
from trimtab_agent.contract.measurement import Latency

_MAX_UINT32 = 2**32 - 1


class Timings(msgspec.Struct, kw_only=True, frozen=True):
    """What the clock said, in nanoseconds.

    Attributes:
        first_ns: The very first run.
        warmup_count: Runs before the timed ones, the first included.
        raw_ns: The timed runs in order.
    """

    first_ns: int
    warmup_count: int
    raw_ns: Sequence[int]


def time_runs(
    run: Callable[[], object],
    plan: Plan,
    *,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Timings:
    """Runs a model until the plan is fulfilled.

    Args:
        run: One inference.
        plan: When to stop warming up, and when to stop.
        clock_ns: A monotonic clock in nanoseconds.
    """
    first_ns, warmup_count, warm_ns = warm_up(run, plan, clock_ns=clock_ns)
    stride = runs_per_timed_run(warm_ns, plan)
    # A collection in the middle of a run would be counted as the model's.
    gc.collect()
    gc.disable()
    try:
        raw_ns = _timed(run, plan, clock_ns, stride)
    finally:
        gc.enable()
    return Timings(first_ns=first_ns, warmup_count=warmup_count, raw_ns=raw_ns)


def warm_up(
    run: Callable[[], object],
    plan: Plan,
    *,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[int, int, float]:
    """Runs until caches, frequency and lazy set-up have settled.

    Args:
        run: One inference.
        plan: When to stop warming up.
        clock_ns: A monotonic clock in nanoseconds.

    Returns:
        Nanoseconds of the first run, number of runs, and mean nanoseconds of the later runs (of
        the first, if the plan leaves time for no other).
    """
    start = clock_ns()
    run()
    now = clock_ns()
    first_ns, count = now - start, 1
    while (now - start) / 1e9 < plan.warmup_limit_s and (
        count < plan.warmup_runs or (now - start) / 1e9 < plan.warmup_s
    ):
        run()
        now = clock_ns()
        count += 1
    warm_ns = (now - start - first_ns) / (count - 1) if count > 1 else first_ns
    return first_ns, count, warm_ns


def runs_per_timed_run(warm_ns: float, plan: Plan) -> int:
    """Returns how many runs to make for each that is timed, so that the time is spread out.

    `max_runs` runs of a model that takes microseconds would be over in an instant, and say
    nothing of how the device fares over `duration_s`. So the model runs on without a pause, and
    every k-th run is timed.

    Args:
        warm_ns: Duration of a warm run.
        plan: How many timed runs may be kept, and over what time.
    """
    return max(1, int(plan.duration_s * 1e9 / (plan.max_runs * max(warm_ns, 1.0))))


def summarise(timings: Timings, *, load_ns: int, threads: int) -> Latency:
    """Returns the figures of a latency pass; a percentile only where there are runs enough.

    Args:
        timings: At least one timed run.
        load_ns: From opening the file to a session that can run.
        threads: Threads that the runtime was told to use.
    """
    raw_us = [duration / 1000 for duration in timings.raw_ns]
    ordered = sorted(raw_us)
    count = len(ordered)
    return Latency(
        count=count,
        warmup_count=timings.warmup_count,
        load_us=load_ns / 1000,
        first_us=timings.first_ns / 1000,
        mean_us=fmean(ordered),
        min_us=ordered[0],
        max_us=ordered[-1],
        p50_us=statistics.percentile(ordered, 0.50),
        p90_us=statistics.percentile_if_enough(ordered, 0.90),
        p95_us=statistics.percentile_if_enough(ordered, 0.95),
        p99_us=statistics.percentile_if_enough(ordered, 0.99),
        p50_interval_us=statistics.interval(ordered, 0.50),
        p95_interval_us=statistics.interval(ordered, 0.95),
        steady=statistics.is_steady(raw_us),
        threads=threads,
        raw_us=struct.pack(f"<{count}I", *(min(round(run), _MAX_UINT32) for run in raw_us)),
    )


def _timed(
    run: Callable[[], object], plan: Plan, clock_ns: Callable[[], int], stride: int
) -> list[int]:
    """Returns the duration of each timed run in nanoseconds."""
    raw_ns: list[int] = []
    start = clock_ns()
    while True:
        for _ in range(stride - 1):
            run()
        before = clock_ns()
        run()
        after = clock_ns()
        raw_ns.append(after - before)
        elapsed_s = (after - start) / 1e9
        if len(raw_ns) >= plan.max_runs or elapsed_s >= plan.timed_limit_s:
            return raw_ns
        if elapsed_s >= plan.duration_s and len(raw_ns) >= plan.min_runs:
            return raw_ns
