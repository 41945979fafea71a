"""Errors of a child process: how one ended, and those of ours that it met, raised again here."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec

from trimtab_agent.errors import TrimtabError, kind_of

VMSTAT = Path("/proc/vmstat")
"""Where Linux counts the processes that it ended for lack of memory."""

_TAIL_CHARS = 500


class Fault(msgspec.Struct, kw_only=True, frozen=True):
    """An error of Trimtab's that a child met: its parent raises it again."""

    reason: str
    message: str


def fault_of(error: TrimtabError) -> Fault:
    """Returns what tells a parent of an error."""
    return Fault(reason=error.reason, message=str(error))


def error_of(fault: Fault, *, unknown: type[TrimtabError]) -> TrimtabError:
    """Returns the error that a child met, of its own class; of `unknown` if no class fits."""
    kind = kind_of(fault.reason)
    return (unknown if kind is TrimtabError else kind)(fault.message)


def describe_exit(returncode: int, stderr: bytes, *, out_of_memory: bool) -> str:
    """Says in words how a process ended.

    Args:
        returncode: As `subprocess` gives it: negative is the number of a signal.
        stderr: What it wrote there; the end of it says most.
        out_of_memory: Whether the kernel has killed for lack of memory meanwhile.
    """
    if returncode == -signal.SIGKILL and out_of_memory:
        return "the kernel killed the process because memory ran out: it needs too much"
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return f"the process was killed by {name}{_tail(stderr)}"
    return f"the process failed with exit code {returncode}{_tail(stderr)}"


def _tail(stderr: bytes) -> str:
    """Returns the last line that is not empty, with a colon before it, or nothing."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1].strip()[:_TAIL_CHARS]}" if lines else ""


def out_of_memory_kills(vmstat: Path = VMSTAT) -> int:
    """Returns how many processes this kernel has killed for lack of memory; 0 if it is not told."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
