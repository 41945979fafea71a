"""A flood of log lines is counted, not written."""

from __future__ import annotations

import io
import logging

from trimtab_agent.log_limit import MAX_LINES, PERIOD_S, LimitedHandler


def test_a_flood_is_cut_and_counted():
    now_s = 0.0
    handler = LimitedHandler(lambda: now_s)
    handler.setStream(stream := io.StringIO())
    log = logging.Logger("flooded")
    log.addHandler(handler)
    for number in range(MAX_LINES + 70):
        log.warning("refused %d", number)
    assert stream.getvalue().splitlines()[-1] == f"refused {MAX_LINES - 1}"
    now_s += PERIOD_S
    log.warning("after")
    assert stream.getvalue().splitlines()[-2:] == ["70 more lines were left out", "after"]
    assert len(stream.getvalue().splitlines()) == MAX_LINES + 2
