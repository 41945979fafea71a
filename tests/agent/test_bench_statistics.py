"""Percentiles, their intervals and the steady test, against brute force and published ranks."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_agent.bench import statistics

SHARES = st.sampled_from([0.5, 0.9, 0.95, 0.99])


def below(count: int, share: Fraction, rank: int) -> Fraction:
    """P(B <= rank) of a binomial, exactly."""
    return sum(
        comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(rank + 1)
    ) or Fraction(0)


@pytest.mark.parametrize(("share", "count"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_minimum_count(share, count):
    assert statistics.minimum_count(share) == count


@pytest.mark.parametrize(
    ("count", "share", "ranks"),
    [
        (100, 0.5, (40, 61)),
        (100, 0.9, (84, 96)),
        (100, 0.95, (90, 100)),
        (100, 0.99, (97, None)),
        (1024, 0.5, (481, 544)),
        (1024, 0.9, (902, 941)),
        (1024, 0.95, (959, 987)),
        (1024, 0.99, (1007, 1020)),
        (1, 0.5, (None, None)),
    ],
)
def test_interval_ranks(count, share, ranks):
    assert statistics.interval_ranks(count, share) == ranks


@settings(max_examples=40)
@given(count=st.integers(1, 120), share=SHARES)
def test_interval_ranks_are_the_tightest_that_hold(count, share):
    exact = Fraction(str(share))
    tail = Fraction(25, 1000)
    lower, upper = statistics.interval_ranks(count, share)
    lowers = [rank for rank in range(1, count + 1) if below(count, exact, rank - 1) <= tail]
    uppers = [rank for rank in range(1, count + 1) if 1 - below(count, exact, rank - 1) <= tail]
    assert lower == max(lowers, default=None)
    assert upper == min(uppers, default=None)


@given(values=st.lists(st.floats(0, 1e9), min_size=1, max_size=300), share=SHARES)
def test_a_percentile_is_the_smallest_value_with_enough_at_or_below(values, share):
    ordered = sorted(values)
    actual = statistics.percentile(ordered, share)
    wanted = ceil(share * len(values))
    at_or_below = [value for value in ordered if sum(v <= value for v in values) >= wanted]
    assert actual == at_or_below[0]


def test_a_percentile_needs_enough_values():
    assert statistics.percentile_if_enough(list(range(58)), 0.95) is None
    assert statistics.percentile_if_enough(list(range(59)), 0.95) == 56


def test_an_interval_takes_the_values_at_its_ranks():
    assert statistics.interval(list(range(1, 101)), 0.5) == (40, 61)
    assert statistics.interval(list(range(1, 101)), 0.99) is None


@pytest.mark.parametrize(
    ("values", "steady"),
    [
        ([100.0] * 25, True),
        ([100.0] * 24, False),
        ([500.0] * 10 + [100.0] * 15, True),
        ([100.0] * 20 + [103.0] * 5, False),
        ([100.0] * 20 + [102.0] * 5, True),
        ([100.0] * 12 + [9000.0] + [100.0] * 12, True),
    ],
    ids=["constant", "too few", "slow start", "drift of 3 %", "drift of 2 %", "one outlier"],
)
def test_is_steady(values, steady):
    assert statistics.is_steady(values) is steady
