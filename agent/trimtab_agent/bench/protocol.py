"""What the agent and the child process that runs a model say to each other, in lines of JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab_agent.bench.interface import Interface
from trimtab_agent.bench.plan import Plan
from trimtab_agent.contract.manifest import Golden, RuntimeSpec
from trimtab_agent.contract.measurement import Energy, Latency, Memory, OperatorTime
from trimtab_agent.contract.messages import GoldenCheck
from trimtab_agent.faults import Fault

Mode = Literal["golden", "latency", "memory", "energy", "operators", "turns"]


class Request(msgspec.Struct, kw_only=True, frozen=True):
    """What the child is to do.

    Attributes:
        mode: The pass. `turns` keeps the process: it loads and warms up, replies, and then does
            one `Turn` for each further line until its input ends.
        runtime: How to run the model.
        model_path: Absolute path of the model file.
        golden_path: Absolute path of the golden samples, which are also what is run.
        plan: Lengths of the passes.
        golden: What to hold the outputs against; in the mode `golden` only.
        interface: What the model's inputs and outputs must be; None if nobody has told.
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
    interface: Interface | None = None
    cache_dir: str | None = None
    power_root: str = "/"


class Turn(msgspec.Struct, kw_only=True, frozen=True):
    """One turn of a version that is compared: a short latency or energy pass.

    Attributes:
        mode: The pass.
        plan: Its lengths.
    """

    mode: Literal["latency", "energy"]
    plan: Plan


class Opened(msgspec.Struct, kw_only=True, frozen=True):
    """A model that is loaded and warm. Times in nanoseconds.

    Attributes:
        load_ns: From opening the file to a session that can run.
        first_ns: The very first run.
        warmup_count: Runs so far, the first included.
    """

    load_ns: int
    first_ns: int
    warmup_count: int


class TurnTimes(msgspec.Struct, kw_only=True, frozen=True):
    """A latency turn.

    Attributes:
        raw_ns: The timed runs in order, in nanoseconds.
        waited_share: Time that the threads of the process were ready to run and had no
            processor, as a share of the turn: what other processes took. None where the kernel
            does not tell.
    """

    raw_ns: tuple[int, ...]
    waited_share: float | None


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
    opened: Opened | None = None
    turn: TurnTimes | None = None
