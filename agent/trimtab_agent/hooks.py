"""The commands of this device's configuration, run around an update (`ports.Hooks`).

A command gets a clean environment: a fixed `PATH`, and what it is about in `TRIMTAB_...`. It runs
in a process group of its own, which is ended as a whole when its time is over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trimtab_agent.config import HealthConfig, HooksConfig
from trimtab_agent.errors import HealthError, HookError, TrimtabError
from trimtab_agent.ports import HookName
from trimtab_agent.version import Version

if TYPE_CHECKING:
    import subprocess

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TAIL_BYTES = 4096
_LINE_CHARS = 300
_READ_BYTES = 65536
_POLL_S = 0.05


class DeviceHooks:
    """The hooks and the health command of one device (`ports.Hooks`).

    Args:
        device: The device's id.
        hooks: The table `[hooks]`.
        health: The table `[health]`.
    """

    def __init__(self, device: str, hooks: HooksConfig, health: HealthConfig) -> None:
        self._device = device
        self._hooks = hooks
        self._health = health
        self.has_health = health.command is not None
        self.interval_s = health.interval_s
        self.failures_allowed = health.failures

    def run(self, hook: HookName, version: Version | None) -> None:
        """See `ports.Hooks`."""
        command: Sequence[str] | None = getattr(self._hooks, hook)
        if command:
            self._run(f"the hook {hook}", HookError, command, self._hooks.timeout_s, version)

    def check_health(self, version: Version) -> None:
        """See `ports.Hooks`."""
        health = self._health
        assert health.command is not None, "has_health says whether there is one"
        self._run("the health command", HealthError, health.command, health.timeout_s, version)

    def _run(
        self,
        what: str,
        kind: type[TrimtabError],
        command: Sequence[str],
        timeout_s: float,
        version: Version | None,
    ) -> None:
        fault = run_command(command, environment(self._device, version), timeout_s)
        if fault is not None:
            raise kind(f"{what} {command[0]} {fault}")


def environment(device: str, version: Version | None) -> dict[str, str]:
    """Returns the environment of a command: nothing of the agent's own."""
    told = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "TRIMTAB_DEVICE": device}
    if version is not None:
        manifest = version.manifest
        told |= {
            "TRIMTAB_VERSION_DIR": str(version.path),
            "TRIMTAB_MODEL": str(version.model),
            "TRIMTAB_PACKAGE": manifest.name,
            "TRIMTAB_VERSION": manifest.version,
        }
    return told


def run_command(command: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> str | None:
    """Runs a command to its end.

    Args:
        command: The program and its arguments; no shell is involved.
        environ: All of its environment.
        timeout_s: Longest time it may take.

    Returns:
        None if it ended with 0; else how it failed, as the rest of a sentence about it, with the
        last line that it wrote.
    """
    import subprocess

    try:
        process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"cannot be started: {error.strerror}"
    try:
        tail = _listen(process, timeout_s)
        in_time = process.poll() is not None
    finally:
        # What it has left in the background must not outlive it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if not in_time:
        return f"was ended after {timeout_s:g} s{tail}"
    if process.returncode < 0:
        return f"was killed by signal {-process.returncode}{tail}"
    return f"failed with exit code {process.returncode}{tail}" if process.returncode else None


def _listen(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Reads what a process writes until it ends or its time is over.

    A process that it has left in the background may hold the pipe open: only the end of the
    process itself counts.

    Returns:
        Its last line, after a colon; empty if it wrote none.
    """
    assert process.stdout is not None
    output, deadline, tail = process.stdout.fileno(), time.monotonic() + timeout_s, b""
    os.set_blocking(output, False)
    over = False
    while not over:
        over = process.poll() is not None or time.monotonic() > deadline
        with contextlib.suppress(BlockingIOError):
            while time.monotonic() <= deadline and (piece := os.read(output, _READ_BYTES)):
                tail = (tail + piece)[-_TAIL_BYTES:]
        if not over:
            time.sleep(_POLL_S)
    lines = [line for line in tail.decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1].strip()[:_LINE_CHARS]}" if lines else ""
