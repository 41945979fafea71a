"""The lines that the host can ask an agent for."""

from __future__ import annotations

import logging

from trimtab_agent.contract.commands import MAX_LOG_LINES
from trimtab_agent.contract.messages import Progress
from trimtab_agent.log_ring import LogRing


def test_steps_and_warnings_stand_in_their_order():
    ring, log = LogRing(), logging.Logger("part of the agent")
    log.addHandler(ring)
    ring.step(Progress(device="d", counter=1, target="watch-1.json", state="fetching"))
    log.warning("the broker\nis away")
    waiting = "waits until 03:00 to fetch chunks"
    ring.step(
        Progress(device="d", counter=1, target="watch-1.json", state="fetching", detail=waiting)
    )
    words = [line.split(" ", 2)[2] for line in ring.last(10)]
    assert words == [
        "INFO watch-1.json: fetching",
        "WARNING the broker | is away",
        f"INFO watch-1.json: fetching ({waiting})",
    ]
    assert ring.last(1) == ring.last(10)[-1:]


def test_only_the_newest_are_kept():
    ring = LogRing()
    for number in range(MAX_LOG_LINES + 5):
        ring.emit(logging.makeLogRecord({"levelname": "INFO", "msg": str(number)}))
    assert len(ring.last(2 * MAX_LOG_LINES)) == MAX_LOG_LINES
    assert ring.last(1)[0].endswith(f" {MAX_LOG_LINES + 4}")
