"""A version that takes turns with another: one child process that keeps its model loaded."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import msgspec

from trimtab_agent.bench.plan import Plan
from trimtab_agent.bench.process import COMMAND, command_line, timeout_s, understand
from trimtab_agent.bench.protocol import Mode, Opened, Reply, Request, Turn, TurnTimes
from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import RuntimeSpec
from trimtab_agent.contract.measurement import Energy
from trimtab_agent.errors import MeasurementError
from trimtab_agent.faults import describe_exit, out_of_memory_kills

Figures = TypeVar("Figures", Opened, TurnTimes, Energy)

_READ_BYTES = 1 << 16
_STDERR_BYTES = 4096


class Subject(msgspec.Struct, kw_only=True, frozen=True):
    """What is measured.

    Attributes:
        runtime: How to run it. `runtime.model` is not read.
        model_path: The model file.
        golden_path: The golden samples; they are what the model is run on.
        cache_dir: Where an accelerator's compiled form of the model is kept; see `runtimes.load`.
    """

    runtime: RuntimeSpec
    model_path: Path
    golden_path: Path
    cache_dir: Path | None = None

    def request(self, mode: Mode, plan: Plan, power_root: Path) -> Request:
        """Returns the request for one of its passes, or for its turns."""
        return Request(
            mode=mode,
            runtime=self.runtime,
            model_path=str(self.model_path.resolve()),
            golden_path=str(self.golden_path.resolve()),
            plan=plan,
            cache_dir=None if self.cache_dir is None else str(self.cache_dir.resolve()),
            power_root=str(power_root.resolve()),
        )


class Player:
    """The process of one version. It waits, asleep on its input, while the other has its turn.

    Args:
        request: What it loads; the mode is `turns`.
        command: The program that serves it.

    Attributes:
        opened: How loading and warming up went.
        runtime_version: The runtime's.
        provider: What executes the graph, if the runtime tells.

    Raises:
        MeasurementError: The process does not start, crashed, was killed or ran out of time.
        TrimtabError: What it raised, of the same class.
    """

    def __init__(self, request: Request, *, command: Sequence[str] = COMMAND) -> None:
        self._request = request
        self._kills_before = out_of_memory_kills()
        self._rest = b""
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        try:
            self._process = subprocess.Popen(
                command_line(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd="/",  # `-m` puts the working directory before everything on the import path
            )
        except OSError as error:
            self._stderr.close()
            raise MeasurementError(f"{command[0]} cannot be started: {error}") from error
        try:
            reply = self._ask(request)
            self.opened = _given(reply.opened, request)
        except BaseException:
            self.close()
            raise
        self.runtime_version = reply.runtime_version
        self.provider = reply.provider

    def time(self, plan: Plan) -> TurnTimes:
        """Does a latency turn. Raises as the constructor does."""
        return _given(self._ask(Turn(mode="latency", plan=plan)).turn, self._request)

    def watch(self, plan: Plan) -> Energy:
        """Does an energy turn. Raises as the constructor does."""
        return _given(self._ask(Turn(mode="energy", plan=plan)).energy, self._request)

    def close(self) -> None:
        """Ends the process, at once: there is nothing in it to save."""
        self._process.kill()
        self._process.communicate()  # closes the pipes
        self._stderr.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, message: Request | Turn) -> Reply:
        """Sends one line and returns what the answer says."""
        requests = self._process.stdin
        if requests is None:
            raise AssertionError("the process was started with a pipe")
        try:
            requests.write(codec.encode(message) + b"\n")
            requests.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        return understand(self._read_line(), self._request)

    def _read_line(self) -> bytes:
        """Reads up to the end of a line, within the time that a pass may take."""
        replies = self._process.stdout
        if replies is None:
            raise AssertionError("the process was started with a pipe")
        limit_s = timeout_s(self._request)
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([replies], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise MeasurementError(
                    f"a turn of {self._request.model_path} was ended after {limit_s:g} s: the "
                    "model hangs, or is too slow for this plan"
                )
            piece = os.read(replies.fileno(), _READ_BYTES)
            if not piece:
                raise self._ended()
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _ended(self) -> MeasurementError:
        """Returns the error that says how the process came to its end."""
        returncode = self._process.wait()
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _STDERR_BYTES))
        starved = out_of_memory_kills() > self._kills_before
        cause = describe_exit(returncode, self._stderr.read(), out_of_memory=starved)
        return MeasurementError(f"a turn of {self._request.model_path}: {cause}")


def _given(figures: Figures | None, request: Request) -> Figures:
    """Returns what a reply must hold."""
    if figures is None:
        raise MeasurementError(
            f"a turn of {request.model_path} gave no figures: the versions are mixed"
        )
    return figures
