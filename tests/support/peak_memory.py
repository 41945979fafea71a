"""How much memory this process took while it did something, as the kernel counts it.

Not by tracemalloc: before Python 3.12.9 its `stop` crashes a process with other threads (CPython
issue 128679), and pytest-xdist's workers have some.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SELF = Path("/proc/self")


@dataclass
class Growth:
    """What was taken at the most beyond what was there before; set at the end of the block."""

    peak_bytes: int = 0


@contextlib.contextmanager
def peak_growth() -> Iterator[Growth]:
    """Watches the largest resident set of this process, all threads together."""
    growth = Growth()
    (_SELF / "clear_refs").write_text("5")  # sets VmHWM back to VmRSS (proc(5))
    before = _peak_bytes()
    try:
        yield growth
    finally:
        growth.peak_bytes = _peak_bytes() - before


def _peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", (_SELF / "status").read_text())
    assert found, "Linux tells it"
    return int(found[1]) * 1024
