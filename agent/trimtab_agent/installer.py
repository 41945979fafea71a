"""Assembling a version in a child process, so that numpy and zstandard are never resident."""

from __future__ import annotations

from pathlib import Path

from trimtab_agent import frames
from trimtab_agent.assembly import Order
from trimtab_agent.contract import codec
from trimtab_agent.durable import held
from trimtab_agent.helper_process import Helper

MODULE = "trimtab_agent.installer_child"

SILENCE_S = 900.0
"""Longest time that the child may say nothing: it speaks once a megabyte, but syncing a large file
to a slow SD card is one call that takes as long as the card does."""

_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""numpy starts a thread a core, each with a stack and an arena; decoding uses no linear algebra."""


def assemble_in_child(order: Order, *, module: str = MODULE, silence_s: float = SILENCE_S) -> None:
    """Does what `assembly.assemble` does, and raises the same.

    Args:
        order: What to make.
        module: What the child runs; replaced in tests.
        silence_s: Longest time that the child may say nothing.

    Raises:
        HelperProcessError: The child died, hung or said rubbish. What it wrote is still there.
        FormatError: As `assembly.assemble`.
        IntegrityError: As `assembly.assemble`.
        StorageError: As `assembly.assemble`.
    """
    # The child inherits the hold. If this process is killed, the next one's `Store.clear_staging`
    # waits until the child, which the kernel then kills too, has really stopped writing.
    with (
        held(Path(order.staging)) as descriptor,
        Helper(
            module,
            what="the installer",
            silence_s=silence_s,
            environment=_ENVIRONMENT,
            pass_fds=[descriptor],
        ) as helper,
    ):
        helper.send(frames.QUESTION, codec.encode(order))
        while (frame := helper.receive()).kind != frames.ANSWER:
            if frame.kind != frames.WORKING:
                raise helper.refuse(frame)
