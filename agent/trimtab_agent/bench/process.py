"""The agent's side of a measurement: starts the child process and says how it ended.

A model can crash its process, eat all memory or never return. None of that may reach the agent,
so no model is ever loaded in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trimtab_agent.bench.protocol import Reply, Request
from trimtab_agent.contract import codec
from trimtab_agent.contract.session_options import wishes_accelerator
from trimtab_agent.errors import FormatError, MeasurementError
from trimtab_agent.faults import VMSTAT, describe_exit, error_of, out_of_memory_kills

COMMAND: Sequence[str] = (sys.executable, "-m", "trimtab_agent.bench.child")


def run_child(
    request: Request, *, command: Sequence[str] = COMMAND, vmstat: Path = VMSTAT
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
    kills_before = out_of_memory_kills(vmstat)
    try:
        done = subprocess.run(
            command_line(command),
            input=codec.encode(request),
            capture_output=True,
            timeout=timeout_s(request),
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
        starved = out_of_memory_kills(vmstat) > kills_before
        cause = describe_exit(done.returncode, done.stderr, out_of_memory=starved)
        raise MeasurementError(f"{request.mode} pass of {request.model_path}: {cause}")
    return understand(done.stdout, request)


def command_line(command: Sequence[str]) -> list[str]:
    """Returns a program with what `child` wants to know: whose child it is, to end with that."""
    return [*command, str(os.getpid())]


def timeout_s(request: Request) -> float:
    """Returns how long a pass may take."""
    plan, runtime = request.plan, request.runtime
    compiles = wishes_accelerator(runtime.name, runtime.options)
    samples = 0 if request.golden is None else request.golden.count
    return plan.timeout_s + samples * plan.sample_s + (plan.compile_s if compiles else 0.0)


def understand(stdout: bytes, request: Request) -> Reply:
    """Decodes what the child said, and raises what it raised.

    Raises:
        MeasurementError: It cannot be understood.
        TrimtabError: What the child raised, of the same class.
    """
    try:
        reply = codec.decode(stdout, Reply, what="reply of the child process")
    except FormatError as error:
        raise MeasurementError(f"{request.mode} pass of {request.model_path}: {error}") from error
    if reply.fault is not None:
        raise error_of(reply.fault, unknown=MeasurementError)
    return reply
