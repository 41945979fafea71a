"""The hours in which packages may be fetched, by the device's own clock on the wall.

    01:00-05:00                  four hours of the night
    22:00-06:00                  over midnight
    12:00-13:00, 20:00-24:00     several

A moment is inside by what a clock on the wall shows then. So the day on which clocks are set needs
no rule of its own: an hour that it leaves out is not there to fetch in, one that it repeats counts
twice, and no wait is computed that could be wrong by an hour.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.errors import CallerError
from trimtab_agent.sources import Chunks

_RANGE = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]|24):([0-5]\d)")
_DAY = 24 * 60
TICK_S = 0.5


class Hours(msgspec.Struct, frozen=True):
    """Ranges of the day in minutes since midnight: from the first up to before the second."""

    ranges: tuple[tuple[int, int], ...]

    def is_open(self, minute: int) -> bool:
        """Says whether a minute of the day, 0 to 1439, is inside."""
        return any(
            start <= minute < end if start < end else minute >= start or minute < end
            for start, end in self.ranges
        )

    def next_opening(self, minute: int) -> str:
        """Returns the time of day, such as `"01:00"`, of the first opening after a minute."""
        start = min((start for start, _ in self.ranges), key=lambda start: (start - minute) % _DAY)
        return f"{start // 60:02}:{start % 60:02}"


def parse_hours(text: str) -> Hours:
    """Reads hours such as `"01:00-05:00, 22:30-23:15"`.

    Raises:
        CallerError: They have another form, or a range is empty.
    """
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (
            (int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4]))
            if match
            else (0, 0)
        )
        if first == last or last > _DAY:
            raise CallerError(
                f"{part.strip()!r} are no hours: write 01:00-05:00, several with commas between"
            )
        ranges.append((first, last))
    return Hours(tuple(ranges))


def local_minute() -> int:
    """Returns the minute of the day that a clock on this device's wall shows."""
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min


class InHours:
    """A source that is asked during certain hours only (`sources.Chunks`).

    Args:
        source: What is asked.
        hours: When.
        tell: Given a few words when a wait begins and when it ends.
        minute: The minute of the day that it is.
    """

    def __init__(
        self,
        source: Chunks,
        hours: Hours,
        *,
        tell: Callable[[str], None],
        minute: Callable[[], int] = local_minute,
    ) -> None:
        self._source = source
        self._hours = hours
        self._tell = tell
        self._minute = minute

    def fetch(
        self, chunks: Iterable[Chunk], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, bytes]]:
        """See `sources.Chunks`. When the hours end it leaves off, and goes on in the next."""
        lacking = {chunk.sha256: chunk for chunk in chunks}
        has_closed = False

        def leave_off() -> bool:
            nonlocal has_closed
            has_closed = not self._is_open()
            return has_closed or stop()

        while lacking and self._wait(stop):
            has_closed = False
            for chunk, wire in self._source.fetch(list(lacking.values()), stop=leave_off):
                lacking.pop(chunk.sha256, None)
                yield chunk, wire
            if not has_closed:
                return

    def _is_open(self) -> bool:
        return self._hours.is_open(self._minute())

    def _wait(self, stop: Callable[[], bool]) -> bool:
        """Waits for the hours; says whether they have come, rather than `stop`."""
        if not self._is_open() and not stop():
            self._tell(f"waits until {self._hours.next_opening(self._minute())} to fetch chunks")
            while not self._is_open() and not stop():
                time.sleep(TICK_S)
            if not stop():
                self._tell("fetches chunks")
        return not stop()
