"""Hours, rates and waits: what is computed, and sources that keep to it."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_agent.backoff import Patience, full_jitter_s
from trimtab_agent.bandwidth import BURST_S, Capped, TokenBucket
from trimtab_agent.config import TransferConfig, load_config
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.errors import CallerError, ConfigError
from trimtab_agent.hours import InHours, parse_hours
from trimtab_agent.transfer import limited

CHUNKS = [Chunk(sha256=f"{number:064x}", wire_bytes=1000) for number in range(12)]
MINUTE = st.integers(0, 24 * 60 - 1)


def clock(minute):
    return f"{minute // 60:02}:{minute % 60:02}"


# Hours.


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("01:00-05:00", ["01:00", "03:33", "04:59"], ["00:59", "05:00", "13:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "21:59"]),
        ("12:00-13:00, 20:00-24:00", ["12:30", "20:00", "23:59"], ["00:00", "13:00", "19:59"]),
        ("00:00-24:00", ["00:00", "12:00", "23:59"], []),
        ("23:00-00:00", ["23:30"], ["00:00", "22:59"]),
    ],
)
def test_hours_are_those_on_the_clock(text, inside, outside):
    hours = parse_hours(text)
    found = {clock(minute) for minute in range(24 * 60) if hours.is_open(minute)}
    assert set(inside) <= found
    assert not set(outside) & found


@given(MINUTE, MINUTE)
def test_a_range_and_the_same_over_midnight_are_the_whole_day_between_them(start, end):
    if start == end:
        return
    one = parse_hours(f"{clock(start)}-{clock(end)}")
    other = parse_hours(f"{clock(end)}-{clock(start)}")
    assert all(one.is_open(minute) != other.is_open(minute) for minute in range(24 * 60))
    both = parse_hours(f"{clock(start)}-{clock(end)}, {clock(end)}-{clock(start)}")
    assert all(both.is_open(minute) for minute in range(24 * 60))


@given(MINUTE, MINUTE, MINUTE)
def test_the_next_opening_is_the_first_open_minute_after_a_closed_one(start, end, now):
    if start == end:
        return
    hours = parse_hours(f"{clock(start)}-{clock(end)}")
    if not hours.is_open(now):
        later = next(m % 1440 for m in range(now, now + 1440) if hours.is_open(m % 1440))
        assert hours.next_opening(now) == clock(later)


@pytest.mark.parametrize(
    ("day", "open_minutes"),
    [
        ((2026, 3, 28, 12), 4 * 60),  # the clock goes from 02:00 to 03:00 in the night
        ((2026, 10, 24, 12), 6 * 60),  # from 03:00 back to 02:00
        ((2026, 6, 1, 12), 5 * 60),
    ],
)
def test_on_the_day_when_clocks_are_set_the_wall_clock_rules(day, open_minutes):
    zone, hours = ZoneInfo("Europe/Berlin"), parse_hours("00:30-05:30")
    noon = datetime(*day, tzinfo=zone).astimezone(timezone.utc)
    local = ((noon + timedelta(minutes=minute)).astimezone(zone) for minute in range(24 * 60))
    assert sum(hours.is_open(each.hour * 60 + each.minute) for each in local) == open_minutes


@pytest.mark.parametrize(
    "text", ["", "1:00-5:00", "01:00", "01:00-25:00", "01:00-24:30", "01:60-02:00", "01:00-01:00",
             "01:00-05:00,", "at night"],
)  # fmt: skip
def test_other_words_are_no_hours(text):
    with pytest.raises(CallerError, match="are no hours: write 01:00-05:00"):
        parse_hours(text)


class Endless:
    """Yields what it is asked for, and looks at the clock after each."""

    def __init__(self, after=lambda: None):
        self._after = after

    def fetch(self, chunks, *, stop):
        for chunk in chunks:
            if stop():
                return
            yield chunk, b"wire"
            self._after()


def test_fetching_leaves_off_when_the_hours_end_and_goes_on_in_the_next(monkeypatch):
    now, told = [299], []

    def pass_time(_seconds=0.0):
        now[0] += 1

    monkeypatch.setattr("trimtab_agent.hours.time.sleep", pass_time)
    source = InHours(
        Endless(after=pass_time), parse_hours("05:00-05:05, 06:00-07:00"),
        tell=told.append, minute=lambda: now[0],
    )  # fmt: skip
    fetched_at = [(chunk, now[0]) for chunk, _ in source.fetch(CHUNKS, stop=lambda: False)]
    assert [chunk for chunk, _ in fetched_at] == CHUNKS
    assert [minute for _, minute in fetched_at] == [*range(300, 305), *range(360, 367)]
    assert told == [
        "waits until 05:00 to fetch chunks", "fetches chunks",
        "waits until 06:00 to fetch chunks", "fetches chunks",
    ]  # fmt: skip


def test_the_wait_for_the_hours_can_be_ended():
    start = time.monotonic()
    source = InHours(Endless(), parse_hours("05:00-06:00"), tell=lambda _: None, minute=lambda: 0)
    stop = lambda: time.monotonic() > start + 0.05  # noqa: E731
    assert list(source.fetch(CHUNKS, stop=stop)) == []
    assert time.monotonic() - start < 1.0


# Rates.


@settings(max_examples=40)
@given(
    st.floats(1.0, 1e9),
    st.lists(st.tuples(st.integers(1, 4 * 2**20), st.floats(0.0, 10.0)), max_size=30),
)
def test_no_interval_has_more_than_the_rate_allows(rate, steps):
    bucket, now, taken = TokenBucket(rate), 0.0, []
    for amount, pause in steps:
        now += pause + bucket.delay_s(now + pause)
        bucket.take(amount, now)
        taken.append((now, amount))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            before_last = sum(amount for _, amount in taken[first:last])
            allowed = rate * (taken[last][0] - taken[first][0] + BURST_S)
            assert before_last <= allowed * (1 + 1e-9) + 1e-6


def test_a_capped_source_takes_its_time_and_brings_all():
    source = Capped(Endless(), TokenBucket(40_000))  # 12,000 bytes: BURST_S lets them through
    assert len(list(source.fetch(CHUNKS, stop=lambda: False))) == 12
    bucket = TokenBucket(20_000)
    bucket.take(20_000 + 6_000, time.monotonic())  # nothing is saved up, and 0.3 s are owed
    start = time.monotonic()
    assert len(list(Capped(Endless(), bucket).fetch(CHUNKS, stop=lambda: False))) == 12
    assert time.monotonic() - start >= 0.25


def test_a_wait_for_the_rate_can_be_ended():
    bucket = TokenBucket(1.0)
    bucket.take(10**6, time.monotonic())
    start = time.monotonic()
    stop = lambda: time.monotonic() > start + 0.05  # noqa: E731
    assert list(Capped(Endless(), bucket).fetch(CHUNKS, stop=stop)) == []
    assert time.monotonic() - start < 1.0


# Waits.


@given(st.integers(0, 10_000), st.integers(0, 100))
def test_the_wait_is_random_and_bounded(failures, seed):
    random.seed(seed)
    limit = min(60.0, 2.0 * 2.0 ** min(failures, 60))
    assert 0.0 <= full_jitter_s(failures, first_s=2.0, longest_s=60.0) <= limit


def test_a_thousand_devices_do_not_come_back_together():
    random.seed(1)
    waits = [full_jitter_s(0, first_s=2.0, longest_s=60.0) for _ in range(1000)]
    in_each_tenth = [sum(int(wait * 5) == tenth for wait in waits) for tenth in range(10)]
    assert max(in_each_tenth) < 150


def test_patience_follows_the_pace_within_bounds():
    patience = Patience(longest_s=30.0)
    assert patience.limit_s == 3.0
    for _ in range(50):  # a line that takes 5 s for each
        patience.waited(5.0)
        patience.came()
    assert patience.limit_s == pytest.approx(20.0, abs=0.1)
    patience.waited(19.0)
    assert not patience.is_over
    patience.restart()
    patience.waited(19.0)
    assert not patience.is_over
    patience.waited(2.0)
    assert patience.is_over
    for _ in range(50):
        patience.came()
    assert patience.limit_s == 3.0
    assert Patience(longest_s=1.0).limit_s == 1.0


# The configuration.


def test_limits_wrap_every_way_and_a_cap_does_not_listen():
    def ways(group):
        return {**({} if group is None else {"broadcast": Endless()}), "retained": Endless()}

    free = limited(ways, TransferConfig(), tell=print)
    assert set(free("line-3")) == {"broadcast", "retained"}
    assert isinstance(free(None)["retained"], Endless)
    slow = limited(ways, TransferConfig(max_bytes_per_s=10**9, hours="00:00-24:00"), tell=print)
    assert set(slow("line-3")) == {"retained"}
    assert isinstance(slow(None)["retained"], InHours)
    assert len(list(slow(None)["retained"].fetch(CHUNKS, stop=lambda: False))) == len(CHUNKS)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('hours = "1-5"', "'1-5' are no hours.*at `\\$.transfer.hours`"),
        ("max_bytes_per_s = 0", "at `\\$.transfer.max_bytes_per_s`"),
        ("max_bytes = 1", "unknown field `max_bytes`"),
    ],
)
def test_wrong_limits_are_named(tmp_path, lines, message):
    path = tmp_path / "agent.toml"
    head = 'device = "d"\nprofile = "p"\nbroker = "mqtt://h"\nstate_dir = "s"\nroot = "r"\n'
    path.write_text(f"{head}[transfer]\n{lines}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(path)
