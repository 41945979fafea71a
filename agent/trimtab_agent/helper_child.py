"""A child process's side: takes one question, answers it, and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

from trimtab_agent import frames
from trimtab_agent.contract import codec
from trimtab_agent.errors import TrimtabError
from trimtab_agent.faults import fault_of

_PR_SET_PDEATHSIG = 1
"""prctl(2), since Linux 2.1.57."""


def serve(answer: Callable[[socket.socket, bytes], bytes]) -> int:
    """Answers the agent's question.

    Args:
        answer: Gets the connection to the agent and the question.

    Returns:
        The exit code. An agent that is gone is no error: nobody waits for the answer.
    """
    end_with_parent(int(sys.argv[1]))
    with _claim_standard_input() as connection, contextlib.suppress(EOFError, BrokenPipeError):
        question = frames.receive(connection).body
        try:
            reply = answer(connection, question)
        except TrimtabError as error:
            frames.send(connection, frames.FAULT, codec.encode(fault_of(error)))
        else:
            frames.send(connection, frames.ANSWER, reply)
    return 0


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends, where the kernel can (Linux).

    Without it a child whose agent was killed would go on writing, or measuring, beside the next
    agent's; one whose model hangs would never end.

    Args:
        parent: The process that started this one.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        sys.exit(0)


def _claim_standard_input() -> socket.socket:
    """Takes the connection, and leads descriptors 0 and 1 elsewhere: libraries like to print."""
    connection = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return connection
