"""ONNX Runtime's profile: a JSON file of events in Chrome's trace format, read into figures.

An event of a node that ran has the category `Node` and a name that ends in `_kernel_time`; its
`args` have the operator and the provider, `dur` is in microseconds. A `model_run` spans one run.
Source: onnxruntime/core/common/profiler.cc and sequential_executor.cc.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from trimtab_agent.contract.measurement import OperatorTime
from trimtab_agent.errors import DeviceError
from trimtab_agent.runtimes.base import sum_operators

_NODE_SUFFIX = "_kernel_time"


class _Event(msgspec.Struct):
    name: str = ""
    cat: str = ""
    ts: float = 0.0
    dur: float = 0.0
    args: dict[str, Any] = {}


def read_profile(path: Path, *, skip_runs: int = 0) -> tuple[OperatorTime, ...]:
    """Reads a profile that `end_profiling` has written.

    Args:
        path: The JSON file.
        skip_runs: So many runs at the beginning are left out, being warm-up.

    Raises:
        DeviceError: It is missing or no profile.
    """
    try:
        events = msgspec.json.decode(path.read_bytes(), type=list[_Event])
    except (OSError, msgspec.DecodeError) as error:
        raise DeviceError(f"the profile {path} of onnxruntime cannot be read: {error}") from error
    begins = sorted(event.ts for event in events if event.name == "model_run")
    start = begins[skip_runs] if skip_runs < len(begins) else 0.0
    return sum_operators(
        OperatorTime(
            name=event.name.removesuffix(_NODE_SUFFIX),
            operator=str(event.args.get("op_name", "")),
            kernel=event.args.get("provider"),
            calls=1,
            time_us=event.dur,
        )
        for event in events
        if event.cat == "Node" and event.name.endswith(_NODE_SUFFIX) and event.ts >= start
    )


def by_provider(operators: tuple[OperatorTime, ...]) -> dict[str, tuple[str, ...]]:
    """Returns the operators that ran, by the provider that ran them."""
    found: dict[str, tuple[str, ...]] = {}
    for each in operators:
        if each.kernel is not None:
            found[each.kernel] = (*found.get(each.kernel, ()), each.operator)
    return found
