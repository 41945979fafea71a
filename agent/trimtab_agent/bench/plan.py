"""How long and how often to run a model, for each pass of a measurement."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Runs = Annotated[int, msgspec.Meta(ge=1)]

_TURN_SHARE = 0.1


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
        limit_s: The timed part ends here even below `min_runs`, but not before `duration_s`;
            percentiles that need more runs are then absent.
        pairs: When two versions are compared, each takes so many turns under the clock, of a
            tenth of `duration_s`.
        energy_pairs: So many turns under the power sensor, which share out `idle_s` and
            `energy_s`.
        memory_runs: Runs of the memory pass.
        operator_runs: Runs of the pass that times operators.
        idle_s: Idle time before and after the energy pass, to know the power at rest.
        energy_s: Length of the energy pass under load.
        grace_s: How much longer than its longest pass a process may take, to start, to load the
            model and for passes that are counted in runs.
        sample_s: How much longer still for each golden sample that is checked.
        compile_s: How much longer still where an accelerator may have to compile the model:
            TensorRT takes minutes on the boards that have it.
    """

    warmup_runs: Runs = 10
    warmup_s: Seconds = 1.0
    warmup_limit_s: Seconds = 5.0
    duration_s: Seconds = 2.0
    min_runs: Runs = 100
    max_runs: Runs = 4096
    limit_s: Seconds = 20.0
    pairs: Runs = 16
    energy_pairs: Runs = 6
    memory_runs: Runs = 10
    operator_runs: Runs = 20
    idle_s: Seconds = 2.0
    energy_s: Seconds = 3.0
    grace_s: Seconds = 90.0
    sample_s: Seconds = 10.0
    compile_s: Seconds = 1800.0

    @property
    def timed_limit_s(self) -> float:
        """The longest that the timed part may take."""
        return max(self.limit_s, self.duration_s)

    @property
    def most_pairs(self) -> int:
        """Pairs of turns at most: those that were disturbed are made up for, not for ever."""
        return self.pairs + self.pairs // 2

    @property
    def turn(self) -> Plan:
        """The plan of one turn of a comparison: a share of this one, with a short warm-up.

        The warm-up of a turn brings the caches back that the other version has taken. Half as
        many runs are kept: a report carries those of both versions, of every turn.
        """
        return msgspec.structs.replace(
            self,
            warmup_runs=1,
            warmup_s=self.duration_s * _TURN_SHARE**2,
            duration_s=self.duration_s * _TURN_SHARE,
            min_runs=math.ceil(self.min_runs / self.pairs),
            max_runs=max(1, self.max_runs // self.most_pairs // 2),
            limit_s=self.limit_s / self.pairs,
            idle_s=self.idle_s / self.energy_pairs,
            energy_s=self.energy_s / self.energy_pairs,
        )

    @property
    def timeout_s(self) -> float:
        """A pass whose process takes longer is ended: the model hangs."""
        latency_s = self.warmup_limit_s + self.timed_limit_s
        energy_s = 2 * self.idle_s + self.energy_s
        return max(latency_s, energy_s) + self.grace_s


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
    grace_s=600.0,
)
"""For figures that are compared or kept: 60 s and 1,024 runs as in MLPerf Mobile."""
