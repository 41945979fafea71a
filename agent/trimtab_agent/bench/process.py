"""The agent's side of a measurement: starts the child process and says how it ended.

A model can crash its process, eat all memory or never return. None of that may reach the agent,
so no model is ever loaded in it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trimtab_agent.bench.protocol import Fault, Reply, Request
from trimtab_agent.contract import codec
from trimtab_agent.contract.session_options import wishes_accelerator
from trimtab_agent.errors import FormatError, MeasurementError, TrimtabError

COMMAND: Sequence[str] = (sys.executable, "-m", "trimtab_agent.bench.child")

_VMSTAT = Path("/proc/vmstat")
_TAIL_CHARS = 500


def run_child(
    request: Request, *, command: Sequence[str] = COMMAND, vmstat: Path = _VMSTAT
) -> Reply:
    """Does one pass in a process of its own.

    Args:
        request: The pass. Its paths are absolute.
        command: The program that serves it.
        vmstat: Where the kernel counts the processes that it ended for lack of memory.

    Raises:
        MeasurementError: The process crashed, was killed, ran out of time or said nothing that
            can be understood; the message says which.
        TrimtabError: What the child raised, of the same class.
    """
    kills_before = _out_of_memory_kills(vmstat)
    try:
        done = subprocess.run(
            command,
            input=codec.encode(request),
            capture_output=True,
            timeout=_timeout_s(request),
            cwd="/",  # `-m` puts the working directory before everything on the import path
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"{request.mode} pass of {request.model_path} was ended after {error.timeout:g} s: "
            "the model hangs, or is too slow for this plan"
        ) from error
    except OSError as error:
        raise MeasurementError(f"{command[0]} cannot be started: {error}") from error
    if done.returncode != 0:
        starved = _out_of_memory_kills(vmstat) > kills_before
        cause = describe_exit(done.returncode, done.stderr, out_of_memory=starved)
        raise MeasurementError(f"{request.mode} pass of {request.model_path}: {cause}")
    return _understand(done.stdout, request)


def _timeout_s(request: Request) -> float:
    """Returns how long a pass may take."""
    plan, runtime = request.plan, request.runtime
    compiles = wishes_accelerator(runtime.name, runtime.options)
    return plan.timeout_s + (plan.compile_s if compiles else 0.0)


def describe_exit(returncode: int, stderr: bytes, *, out_of_memory: bool) -> str:
    """Says in words how a process ended.

    Args:
        returncode: As `subprocess` gives it: negative is the number of a signal.
        stderr: What it wrote there; the end of it says most.
        out_of_memory: Whether the kernel has killed for lack of memory meanwhile.
    """
    if returncode == -signal.SIGKILL and out_of_memory:
        return "the kernel killed the process because memory ran out: the model needs too much"
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return f"the process was killed by {name}{_tail(stderr)}"
    return f"the process failed with exit code {returncode}{_tail(stderr)}"


def _understand(stdout: bytes, request: Request) -> Reply:
    """Decodes what the child said, and raises what it raised."""
    try:
        reply = codec.decode(stdout, Reply, what="reply of the child process")
    except FormatError as error:
        raise MeasurementError(f"{request.mode} pass of {request.model_path}: {error}") from error
    if reply.fault is not None:
        raise _error(reply.fault)
    return reply


def _error(fault: Fault) -> TrimtabError:
    """Returns the error that the child raised, of its own class."""
    classes = {kind.reason: kind for kind in _subclasses(TrimtabError)}
    return classes.get(fault.reason, MeasurementError)(fault.message)


def _subclasses(kind: type[TrimtabError]) -> Iterator[type[TrimtabError]]:
    """Yields every class below `kind`."""
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _tail(stderr: bytes) -> str:
    """Returns the last line that is not empty, with a colon before it, or nothing."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1].strip()[:_TAIL_CHARS]}" if lines else ""


def _out_of_memory_kills(vmstat: Path) -> int:
    """Returns how many processes this kernel has killed for lack of memory; 0 if it is not told."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
