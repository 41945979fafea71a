"""What the agent and the child process that runs a model say to each other: one JSON line each."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab_agent.bench.plan import Plan
from trimtab_agent.contract.manifest import Golden, RuntimeSpec
from trimtab_agent.contract.measurement import Energy, Latency, Memory, OperatorTime
from trimtab_agent.contract.messages import GoldenCheck

Mode = Literal["golden", "latency", "memory", "energy", "operators"]


class Request(msgspec.Struct, kw_only=True, frozen=True):
    """What the child is to do.

    Attributes:
        mode: The pass.
        runtime: How to run the model.
        model_path: Absolute path of the model file.
        golden_path: Absolute path of the golden samples, which are also what is run.
        plan: Lengths of the passes.
        golden: What to hold the outputs against; in the mode `golden` only.
        cache_dir: Absolute path of the folder for what an accelerator compiles; None to keep
            nothing.
        power_root: Where the power sensors' `sys` and `proc` are; `/` but for tests.
    """

    mode: Mode
    runtime: RuntimeSpec
    model_path: str
    golden_path: str
    plan: Plan
    golden: Golden | None = None
    cache_dir: str | None = None
    power_root: str = "/"


class Fault(msgspec.Struct, kw_only=True, frozen=True):
    """An error of Trimtab's that the child met: the parent raises it again."""

    reason: str
    message: str


class Reply(msgspec.Struct, kw_only=True, frozen=True):
    """What came of it: `fault`, or the result of the pass with what executed it."""

    fault: Fault | None = None
    runtime_version: str = ""
    provider: str | None = None
    golden: GoldenCheck | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    operators: tuple[OperatorTime, ...] | None = None
