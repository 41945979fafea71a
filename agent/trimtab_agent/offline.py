"""One update without a broker: everything from a folder or an HTTP server.

The report waits in the outbox until the agent runs with a broker again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from trimtab_agent.contract.messages import Report
from trimtab_agent.errors import CallerError, PackageError
from trimtab_agent.source_url import FileSource
from trimtab_agent.state import Memory
from trimtab_agent.updater import Updater

_log = logging.getLogger(__name__)

TRIES = 3
"""Errors that may pass, until the run is given up."""


def update_from(
    source: FileSource,
    device: str,
    updater: Updater,
    memory: Memory,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Report | None:
    """Does what a source assigns to this device; also goes on with an update that was left off.

    Args:
        source: Where everything comes from.
        device: This device's id.
        updater: Does the update.
        memory: The updater's.
        sleep: Waits.

    Returns:
        The report, or None if there is nothing to do: the assignment was carried out before, or
        updates are paused.

    Raises:
        CallerError: The source has no assignment for this device.
        PackageError: The assignment is refused.
        NetworkError: The source cannot be read, or lacks something.
        StorageError: The disk is full or refuses.
    """
    signed = source.assignment(device)
    if signed is None:
        raise CallerError(
            f"{source} has no assignment for {device}: write it with "
            f"`trimtab publish PACKAGE --device {device} --folder DIR`"
        )
    updater.clean_up()
    updater.offer(signed)
    errors = 0
    while True:
        step = updater.step()
        if step.ended:
            return step.ended
        if step.error:
            errors += 1
            if isinstance(step.error, PackageError) or errors >= TRIES:
                raise step.error
        done = memory.pending is None and updater.knows(signed)
        if done or step.wait_s is None:
            _log.warning("nothing to do: %s", "this was done before" if done else "updates pause")
            return None
        sleep(step.wait_s)
