"""One turn of a version that is compared, and how far other processes have disturbed it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from trimtab_agent.bench import latency
from trimtab_agent.bench.plan import Plan
from trimtab_agent.bench.protocol import TurnTimes


def time_turn(run: Callable[[], object], plan: Plan, *, proc: Path = Path("/proc")) -> TurnTimes:
    """Times the runs of one turn.

    Args:
        run: One inference of a model that is loaded.
        plan: The turn's.
        proc: The proc file system.
    """
    waited_before_ns = waited_ns(proc)
    start_ns = time.perf_counter_ns()
    timings = latency.time_runs(run, plan)
    elapsed_ns = time.perf_counter_ns() - start_ns
    waited_after_ns = waited_ns(proc)
    if waited_before_ns is None or waited_after_ns is None:
        waited_share = None
    else:  # a thread that has ended meanwhile takes its wait with it
        waited_share = max(0, waited_after_ns - waited_before_ns) / elapsed_ns
    return TurnTimes(raw_ns=tuple(timings.raw_ns), waited_share=waited_share)


def waited_ns(proc: Path) -> int | None:
    """Returns how long threads of this process have been ready and without a processor, so far.

    The second number of `/proc/<pid>/task/<tid>/schedstat` (Linux, Documentation/scheduler/
    sched-stats.rst). None where the kernel was built without it.
    """
    try:
        waits = [int(file.read_text().split()[1]) for file in proc.glob("self/task/*/schedstat")]
    except (OSError, ValueError, IndexError):
        return None
    return sum(waits) if waits else None
