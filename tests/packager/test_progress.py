"""Progress: told to whoever listens, and shown as lines with the time left."""

from __future__ import annotations

import pytest

from trimtab.cli.progress import _Lines, format_time
from trimtab.progress import report, reporting, track


def test_nobody_listens_by_default() -> None:
    assert list(track(range(3), "work", 3)) == [0, 1, 2]


def test_a_listener_hears_what_is_done_until_it_leaves() -> None:
    heard: list[tuple[str, int, int]] = []
    with reporting(lambda *what: heard.append(what)):
        list(track("ab", "work", 2))
    report("work", 1, 2)
    assert heard == [("work", 1, 2), ("work", 2, 2)]


def test_lines_come_now_and_then_with_the_time_left() -> None:
    seconds = iter(range(0, 1000, 5))
    lines: list[str] = []
    show = _Lines(clock=lambda: float(next(seconds)), show=lines.append)
    for done in range(1, 21):
        show("training", done, 20)
    assert lines[0] == "training: 20%, 1 min 20 s left"
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (65, "1 min 5 s"), (7260, "2 h 1 min")]
)
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
