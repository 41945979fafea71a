"""How long and how often to run a model, for each pass of a measurement."""

from __future__ import annotations

from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Runs = Annotated[int, msgspec.Meta(ge=1)]


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """The lengths of the passes. The defaults are the quick plan, about 5 s without a power sensor.

    Attributes:
        warmup_runs: Runs that are thrown away, at least.
        warmup_s: Time to warm up, at least; both must be reached.
        warmup_limit_s: Warming up ends here even so: a slow model must not take minutes.
        duration_s: Length of the timed part.
        min_runs: Timed runs, at least, even if they take longer than `duration_s`.
        max_runs: Timed runs, at most. Every one is kept and travels in the report (4 bytes). Of
            a model that would run more often in `duration_s`, every k-th run is timed.
        limit_s: The timed part ends here even below `min_runs`; percentiles that need more runs
            are then absent.
        memory_runs: Runs of the memory pass.
        idle_s: Idle time before and after the energy pass, to know the power at rest.
        energy_s: Length of the energy pass under load.
        timeout_s: A pass whose process takes longer is ended: the model hangs.
    """

    warmup_runs: Runs = 10
    warmup_s: Seconds = 1.0
    warmup_limit_s: Seconds = 5.0
    duration_s: Seconds = 2.0
    min_runs: Runs = 100
    max_runs: Runs = 4096
    limit_s: Seconds = 20.0
    memory_runs: Runs = 10
    idle_s: Seconds = 2.0
    energy_s: Seconds = 3.0
    timeout_s: Seconds = 120.0


QUICK = Plan()
"""For a first look and for tests of the loop."""

NORMAL = Plan(
    warmup_limit_s=20.0,
    duration_s=60.0,
    min_runs=1024,
    # 64 KiB in the report, 87 KB as base64: under the 128 KiB that common brokers allow a message.
    max_runs=16384,
    limit_s=300.0,
    memory_runs=50,
    idle_s=10.0,
    energy_s=60.0,
    timeout_s=900.0,
)
"""For figures that are compared or kept: 60 s and 1,024 runs as in MLPerf Mobile."""
