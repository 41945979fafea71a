"""The agent's side of a child process that answers one question.

What needs python-tuf, cryptography, numpy or zstandard runs in such a child, because a library
once imported stays in memory for as long as its process lives (docs/decisions/0017).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trimtab_agent import frames
from trimtab_agent.contract import codec
from trimtab_agent.errors import FormatError, HelperProcessError
from trimtab_agent.faults import Fault, describe_exit, error_of, out_of_memory_kills

if TYPE_CHECKING:
    import subprocess

SILENCE_S = 120.0
"""Longest time without a word from a child: a loaded single-board computer may take 20 s only to
import its libraries. The time that a document takes to come is the network's and does not count."""

_ENDING_S = 5.0
_TAIL_BYTES = 1 << 16


class Helper:
    """A child process for the length of a `with` block; at its end it is gone, however it ended.

    Args:
        module: What it runs, such as `trimtab_agent.verifier_child`.
        what: What the messages of errors call it, such as `"the verifier"`.
        silence_s: Longest time that it may say nothing.
        environment: Variables on top of this process's own.
        pass_fds: Descriptors that it inherits and keeps open for as long as it lives.
        command: What starts Python; replaced in tests.
    """

    def __init__(
        self,
        module: str,
        *,
        what: str,
        silence_s: float = SILENCE_S,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        command: Sequence[str] = (sys.executable, "-m"),
    ) -> None:
        self._command = [*command, module, str(os.getpid())]
        self._what = what
        self._silence_s = silence_s
        self._environment = {**os.environ, **(environment or {})}
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Helper:
        """Starts it.

        Raises:
            HelperProcessError: It cannot be started.
        """
        self._kills_before = out_of_memory_kills()
        try:
            self._start()
        except OSError as error:
            raise HelperProcessError(f"{self._what} cannot be started: {error}") from error
        return self

    def _start(self) -> None:
        import subprocess

        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    cwd="/",  # `-m` puts the working directory before everything on the path
                    env=self._environment,
                    pass_fds=self._pass_fds,
                )
            except BaseException:
                self._socket.close()
                raise

    def __exit__(self, *_: object) -> None:
        """Ends it. Whoever has its answer needs nothing more of it, not even its exit code."""
        process = self._started
        try:
            process.kill()
            self._socket.close()
            process.wait()
        finally:
            if process.stderr:
                process.stderr.close()

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        """The process.

        Raises:
            HelperProcessError: It was not started; `with` does that.
        """
        if self._process is None:
            raise HelperProcessError(f"{self._what} was not started: use it in a `with` block")
        return self._process

    def send(self, kind: bytes, body: bytes = b"") -> None:
        """Sends it a frame.

        Raises:
            HelperProcessError: It is gone, or does not listen.
        """
        try:
            self._socket.settimeout(self._silence_s)
            frames.send(self._socket, kind, body)
        except OSError as error:
            raise self._failure(error) from error

    def receive(self) -> frames.Frame:
        """Returns its next frame; a fault is raised, of the class that it had there.

        Raises:
            HelperProcessError: It died, was silent for too long or said what is no frame.
            TrimtabError: What the child met.
        """
        try:
            frame = frames.receive(self._socket, timeout_s=self._silence_s)
            if frame.kind == frames.FAULT:
                fault = codec.decode(frame.body, Fault, what="its fault")
        except (EOFError, OSError) as error:
            raise self._failure(error) from error
        except FormatError as error:
            raise HelperProcessError(f"{self._what} said what cannot be read: {error}") from error
        if frame.kind == frames.FAULT:
            raise error_of(fault, unknown=HelperProcessError)
        return frame

    def refuse(self, frame: frames.Frame) -> HelperProcessError:
        """Returns the error that a frame is which has no place here."""
        return HelperProcessError(
            f"{self._what} sent a frame {frame.kind!r} of {len(frame.body)} bytes, which nobody "
            "asked it for"
        )

    def _failure(self, error: Exception) -> HelperProcessError:
        """Says why no word can come from it, or go to it, any more."""
        if isinstance(error, TimeoutError):
            return HelperProcessError(
                f"{self._what} was ended: it said nothing for {self._silence_s:g} s"
            )
        import subprocess

        process = self._started
        try:
            returncode = process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return HelperProcessError(f"{self._what} closed its connection without an answer")
        starved = out_of_memory_kills() > self._kills_before
        cause = describe_exit(returncode, self._stderr_tail(), out_of_memory=starved)
        return HelperProcessError(f"{self._what}: {cause}")

    def _stderr_tail(self) -> bytes:
        """Returns what it wrote to standard error, without waiting for a grandchild to end it."""
        pipe = self._started.stderr
        if pipe is None:
            return b""
        os.set_blocking(pipe.fileno(), False)
        return pipe.read(_TAIL_BYTES) or b""
