"""Progress on standard error: bars with the time left on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from trimtab.progress import reporting

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Log = Callable[[str], None]

_LINE_EVERY_S = 15.0
"""Between two plain lines about the same work: enough to see that it moves in a log file."""


@contextmanager
def progress() -> Iterator[Log]:
    """Shows how far things are while the context lasts.

    Yields:
        What takes lines of text; they go above the bars.
    """
    if not sys.stderr.isatty():
        with reporting(_Lines()):
            yield _print
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as bars, reporting(_Bars(bars)):
        yield lambda line: console.print(line, markup=False, soft_wrap=True)


def _print(line: str) -> None:
    typer.echo(line, err=True)


class _Bars:
    """A bar for each kind of work, gone when the work is done."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(what))


class _Lines:
    """A line now and then for work that takes long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, show: Log = _print) -> None:
        self._clock, self._show = clock, show
        self._begun: dict[str, tuple[float, int]] = {}
        self._shown: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        begun, first = self._begun.setdefault(what, (now, done))
        if now - self._shown.setdefault(what, now) >= _LINE_EVERY_S and first < done < total:
            self._shown[what] = now
            left_s = (now - begun) / (done - first) * (total - done)
            self._show(f"{what}: {done / total:.0%}, {format_time(left_s)} left")
        if done >= total:
            del self._begun[what], self._shown[what]


def format_time(seconds: float) -> str:
    """Returns a duration as people say it, such as `2 min 5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
