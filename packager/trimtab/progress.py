"""How far long work is, told to whoever shows it.

The work is deep inside (batches of a training, groups of a scan) and who shows it at the rim. The
reporter is therefore ambient, as the handlers of `logging` are: a loop goes through `track`, and a
command says `with reporting(...)`. Without a reporter nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Reporter(Protocol):
    """Shows how far something is."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Takes what is done of how much; `done` equals `total` once, at the end."""
        ...


_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Tells a reporter about everything that runs inside."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def report(what: str, done: int, total: int) -> None:
    """Says how far something is.

    Args:
        what: One or a few words, the same from beginning to end.
        done: In any unit, batches for example.
        total: Of the same.
    """
    reporter = _reporter.get()
    if reporter is not None:
        reporter(what, done, total)


def track(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yields items, and says after each how far things are."""
    for done, item in enumerate(items, start=1):
        yield item
        report(what, done, total)
