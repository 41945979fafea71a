"""The memory pass: what the process that runs the model takes, from the kernel's own counts.

`VmHWM` is the peak that the kernel keeps for a process: no thread has to poll, so nothing is
missed and nothing is disturbed. `getrusage` would not do: its peak survives exec, so a child
inherits that of the process that started it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trimtab_agent.contract.measurement import Memory
from trimtab_agent.errors import MeasurementError

# proc(5): writing 5 to clear_refs sets VmHWM to the present resident set.
_RESET_PEAK = "5"


def measure_memory(
    load: Callable[[], Callable[[], object]], *, runs: int, proc: Path = Path("/proc")
) -> Memory:
    """Loads a model, runs it and returns what that took.

    Call it with the runtime imported and everything else allocated, so that the difference is
    the model's.

    Args:
        load: Loads the model and returns one inference.
        runs: Number of inferences.
        proc: The proc file system.

    Raises:
        MeasurementError: The kernel does not tell the resident set.
    """
    process = proc / "self"
    _reset_peak(process)
    baseline_bytes = _required(process / "status", "VmRSS")
    available_before = available_bytes(proc)
    run = load()
    for _ in range(runs):
        run()
    peak_bytes = _required(process / "status", "VmHWM")
    available_after = available_bytes(proc)
    return Memory(
        peak_rss_bytes=peak_bytes,
        baseline_rss_bytes=baseline_bytes,
        model_peak_bytes=peak_bytes - baseline_bytes,
        pss_bytes=_read_bytes(process / "smaps_rollup", "Pss"),
        available_drop_bytes=(
            None
            if available_before is None or available_after is None
            else available_before - available_after
        ),
    )


def available_bytes(proc: Path = Path("/proc")) -> int | None:
    """Returns the memory that can be taken without swapping; None if the kernel does not tell."""
    return _read_bytes(proc / "meminfo", "MemAvailable")


def _reset_peak(process: Path) -> None:
    """Forgets the peak of the imports. Where that is refused, the peak includes them."""
    try:
        (process / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return  # a kernel without CONFIG_PROC_PAGE_MONITOR


def _required(path: Path, field: str) -> int:
    """Returns a field that every Linux has."""
    value = _read_bytes(path, field)
    if value is None:
        raise MeasurementError(f"{path} has no {field}: memory can be measured on Linux only")
    return value


def _read_bytes(path: Path, field: str) -> int | None:
    """Returns a field like `VmHWM:   1234 kB` in bytes, or None if it is not there."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None
