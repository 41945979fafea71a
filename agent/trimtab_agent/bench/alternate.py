"""Measures a new version beside the running one, in turns: A B B A A B B A ...

Each version has a process that lives through all turns with its model loaded; the one whose turn it
is not sleeps on its input. So a turn costs no start and can be short, and whatever changes over
seconds, such as clocks and temperature, meets both alike; the changing order cancels what the first
turn of a pair does to the second. Memory is weighed before, each version in a process of its own.
Where there is not memory for both at once, every turn starts a process: slower, the same figures.
"""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

from trimtab_agent.bench import environment, paired, rounds
from trimtab_agent.bench.measure import measure
from trimtab_agent.bench.memory import available_bytes
from trimtab_agent.bench.plan import QUICK, Plan
from trimtab_agent.bench.player import Subject
from trimtab_agent.bench.side import RunningFailedError, RunningSide, Side
from trimtab_agent.contract.measurement import Comparison, Energy, Measurement, Memory
from trimtab_agent.power import detect

_log = logging.getLogger(__name__)
_ROOT = Path("/")

# Processes take a little more in the turns than they took when they were weighed.
_SPARE_SHARE = 1.2


def compare(
    new: Subject,
    running: Subject,
    *,
    target: str,
    plan: Plan = QUICK,
    power_root: Path = _ROOT,
) -> tuple[Measurement, Comparison | None]:
    """Measures two versions in turns, by the same plan.

    Args:
        new: The version that is to run.
        running: The version that runs now.
        target: TUF target name of `running`.
        plan: Lengths of the passes.
        power_root: The folder that the power sensors' `sys` is in: `/` but for tests.

    Returns:
        The measurement of `new`, as `measure` gives it, and the comparison. The comparison is
        None where `running` cannot be measured, and the log says why: a version that is broken
        must not keep out the one that mends it.

    Raises:
        MeasurementError: A process of `new` crashed, was killed or ran out of time.
        FormatError: Its model or its samples cannot be loaded, or do not fit each other.
        RuntimeUnavailableError: Its runtime or its provider is not on this machine.
        CallerError: Its runtime refuses an option.
    """
    try:
        with (
            closing(Side(new, plan, power_root)) as mine,
            closing(RunningSide(running, plan, power_root)) as other,
        ):
            return _contest(mine, other, target, plan, power_root)
    except RunningFailedError as error:
        _log.warning("%s runs, and cannot be compared with: %s", target, error)
    alone = measure(
        new.runtime,
        new.model_path,
        new.golden_path,
        plan=plan,
        cache_dir=new.cache_dir,
        power_root=power_root,
    )
    return alone, None


def _contest(
    new: Side, running: Side, target: str, plan: Plan, power_root: Path
) -> tuple[Measurement, Comparison]:
    """Does all passes of both versions."""
    before = environment.observe()
    new_memory, running_memory = _weigh(new, running)
    if _fit(new_memory.peak_rss_bytes + running_memory.peak_rss_bytes):
        new.open()
        running.open()
    taken = rounds.latency_rounds(new, running, plan)
    found = detect(power_root)
    watched = rounds.energy_rounds(new, running, plan) if found.source is not None else []
    around = environment.compare(before, environment.observe())
    used, percentile = rounds.counted(taken)
    latency_ns = [entry.latency_ns(percentile) for entry in used]
    net_mj = rounds.net_mj(watched)
    none = Energy(level="none", reason=found.reason)
    measurement = new.measurement(
        [entry.new for entry in used],
        new_memory,
        rounds.total_energy([turn for turn, _ in watched]) if watched else none,
        around,
    )
    comparison = Comparison(
        target=target,
        rounds=len(used),
        disturbed=sum(entry.disturbed for entry in taken),
        running=running.measurement(
            [entry.running for entry in used],
            running_memory,
            rounds.total_energy([turn for _, turn in watched]) if watched else none,
            around,
        ),
        latency_percentile=percentile,
        latency_ratio=paired.ratio(latency_ns),
        latency_interval=paired.ratio_interval(latency_ns),
        memory_ratio=new_memory.peak_rss_bytes / running_memory.peak_rss_bytes,
        energy_ratio=paired.ratio(net_mj),
        energy_interval=paired.ratio_interval(net_mj),
    )
    return measurement, comparison


def _weigh(new: Side, running: Side) -> tuple[Memory, Memory]:
    """Weighs each version twice; the larger weight counts.

    Under memory pressure the kernel takes pages from a process, so one weighing may be several per
    cent too light. None is too heavy.
    """
    turns = new.weigh(), running.weigh(), running.weigh(), new.weigh()

    def heavier(one: Memory, other: Memory) -> Memory:
        return max(one, other, key=lambda memory: memory.peak_rss_bytes)

    return heavier(turns[0], turns[3]), heavier(turns[1], turns[2])


def _fit(needed_bytes: int) -> bool:
    """Says whether the machine has memory for both processes at once; if it is not told, yes."""
    available = available_bytes()
    return available is None or needed_bytes * _SPARE_SHARE <= available
