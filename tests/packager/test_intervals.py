"""Intervals and tests: published values, brute force, properties, and coverage with fixed seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.evaluate.intervals import (
    bootstrap,
    paired_share_interval,
    percentile_interval,
    wilson_interval,
)
from trimtab.evaluate.significance import bootstrap_p_value, holm, mcnemar, part_p_values


def pairs(both: int, gained: int, lost: int, neither: int):
    """Right and wrong of two models, from the four counts."""
    right = [True] * (both + gained) + [False] * (lost + neither)
    reference = [True] * both + [False] * gained + [True] * lost + [False] * neither
    return np.array(right), np.array(reference)


COUNTS = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda counts: sum(counts) > 0)


@given(successes=st.integers(0, 500), more=st.integers(0, 500))
def test_wilson_holds_the_share_and_stays_in_range(successes, more):
    samples = max(1, successes + more)
    share = successes / samples
    low, high = wilson_interval(share, samples)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    wider = wilson_interval(share, samples * 4)
    assert wider[1] - wider[0] < high - low


def test_wilson_is_the_published_one():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_covers_shares_near_one():
    generator = np.random.default_rng(1)
    shares = generator.binomial(300, 0.98, size=2000) / 300
    held = [low <= 0.98 <= high for low, high in (wilson_interval(s, 300) for s in shares)]
    assert 0.93 < np.mean(held) < 0.98


@given(COUNTS)
def test_a_paired_interval_holds_the_difference_and_turns_with_it(counts):
    right, reference = pairs(*counts)
    low, high = paired_share_interval(right, reference)
    difference = right.mean() - reference.mean()
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    assert high > low
    turned = paired_share_interval(reference, right)
    assert turned == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.04), (0.0, 0.01), (0.1, 0.1)])
def test_a_paired_interval_covers(gained, lost):
    generator = np.random.default_rng(2)
    draws = generator.multinomial(200, [0.85 - gained - lost, gained, lost, 0.15], size=1000)
    intervals = [paired_share_interval(*pairs(*draw)) for draw in draws]
    held = [low <= gained - lost <= high for low, high in intervals]
    assert 0.93 < np.mean(held) <= 1


@given(st.integers(0, 14), st.integers(0, 14))
def test_mcnemar_is_what_tossing_every_coin_gives(gained, lost):
    p = mcnemar(*pairs(3, gained, lost, 2))
    n, most = gained + lost, max(gained, lost)
    tail = sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n
    assert p == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_of_many_does_not_underflow():
    assert 0 < mcnemar(*pairs(0, 900, 1200, 0)) < 1e-9
    assert mcnemar(*pairs(10, 0, 0, 10)) == 1


@pytest.mark.parametrize(("name", "samples"), [("normal", 15), ("exponential", 60)])
def test_the_bootstrap_covers_a_mean(name, samples):
    generator = np.random.default_rng(3)
    draw = {"normal": generator.normal, "exponential": generator.exponential}[name]
    truth = {"normal": 0.0, "exponential": 1.0}[name]
    held = []
    for _ in range(300):
        x = draw(size=samples)
        values = bootstrap([lambda c, x=x: c @ x / c.sum(axis=1)], samples, draws=399)
        low, high = percentile_interval(values[0], samples)
        held.append(low <= truth <= high)
    assert 0.91 < np.mean(held) < 0.985


@settings(max_examples=20)
@given(st.integers(1, 50), st.integers(1, 99))
def test_resamples_take_as_many_as_there_are_and_are_the_same_each_time(samples, draws):
    sums = bootstrap([lambda c: c.sum(axis=1), lambda c: c[:, 0]], samples, draws=draws)
    assert sums.shape == (2, draws)
    assert (sums[0] == samples).all()
    assert (sums == bootstrap([lambda c: c.sum(1), lambda c: c[:, 0]], samples, draws=draws)).all()


def test_resamples_in_blocks_are_those_of_one_block(monkeypatch):
    whole = bootstrap([lambda c: c @ np.arange(9.0)], 9, draws=50)
    monkeypatch.setattr("trimtab.evaluate.intervals._BLOCK_CELLS", 30)
    assert (bootstrap([lambda c: c @ np.arange(9.0)], 9, draws=50) == whole).all()


def test_undefined_draws_are_left_out():
    values = np.array([np.nan, 1.0, 2.0, 3.0, np.nan])
    low, high = percentile_interval(values, 100)
    assert 1 <= low < high <= 3
    assert percentile_interval(np.full(5, np.nan), 100) is None
    assert percentile_interval(values, 1) is None
    assert bootstrap_p_value(np.full(5, np.nan)) is None


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_a_bootstrap_p_value_is_never_zero_and_the_same_for_both_signs(values):
    differences = np.array(values)
    p = bootstrap_p_value(differences)
    assert 0 < p <= 1
    assert p == bootstrap_p_value(-differences)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_none_and_bonferroni(values):
    p = np.array(values)
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, p * len(p)) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()


def test_holm_by_hand():
    # 0.01 x 4, 0.03 x 2 kept up by 0.02 x 3, 0.04 x 1 kept up by both
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 1)), min_size=2, max_size=7))
def test_the_test_of_a_part_is_what_every_permutation_gives(samples):
    loss, part = (np.array(column) for column in zip(*samples, strict=True))
    p = part_p_values(loss, part, 2)
    for index in range(2):
        size = int((part == index).sum())
        seen = loss[part == index].sum()
        sums = [sum(chosen) for chosen in itertools.combinations(loss.tolist(), size)]
        assert p[index] == pytest.approx(np.mean(np.array(sums) >= seen))


def test_drawn_permutations_come_near_the_exact_probability():
    generator = np.random.default_rng(4)
    loss = generator.choice([-1, 0, 1], p=[0.05, 0.8, 0.15], size=200)
    part = generator.integers(0, 4, 200)
    exact = part_p_values(loss, part, 4)
    # Twice the loss is the same question, in a form that the exact method does not take.
    assert part_p_values(loss * 2.0, part, 4) == pytest.approx(exact, abs=0.02)


def test_where_nothing_is_harmed_a_part_is_named_as_rarely_as_promised():
    generator = np.random.default_rng(5)
    named = 0
    for _ in range(300):
        loss = generator.choice([-1, 0, 1], p=[0.04, 0.9, 0.06], size=400)
        named += holm(part_p_values(loss, generator.integers(0, 10, 400), 10)).min() <= 0.05
    assert named / 300 < 0.08
