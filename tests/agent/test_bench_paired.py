"""The ratio of two versions: against brute force, published ranks, and simulated machines."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.measurements import a_comparison, a_measurement
from trimtab_agent.bench import paired
from trimtab_agent.bench.plan import QUICK
from trimtab_agent.contract.manifest import Budget
from trimtab_agent.contract.messages import Gates
from trimtab_agent.gates import judge


@pytest.mark.parametrize(
    ("pairs", "rank"),
    # Hollander, Wolfe and Chicken, table of the signed-rank statistic; R: qsignrank(0.025, n).
    [(5, None), (6, 1), (8, 4), (10, 9), (12, 14), (16, 30), (20, 53)],
)
def test_ranks_of_the_interval(pairs, rank):
    assert paired.interval_rank(pairs) == rank


@pytest.mark.parametrize("pairs", [6, 9])
def test_the_interval_holds_its_confidence_exactly(pairs):
    """Over all choices of signs, each as likely as the next when the versions are equal."""
    sizes = [1.01**value for value in range(1, pairs + 1)]
    missed = 0
    for signs in itertools.product([1, -1], repeat=pairs):
        found = paired.ratio_interval(
            [(size**sign, 1.0) for size, sign in zip(sizes, signs, strict=True)]
        )
        missed += not found[0] <= 1 <= found[1]
    assert missed / 2**pairs <= 0.05


PAIRS = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=6, max_size=20)


@given(pairs=PAIRS)
def test_the_ratio_lies_in_its_interval_and_turns_with_the_versions(pairs):
    lower, upper = paired.ratio_interval(pairs)
    ratio = paired.ratio(pairs)
    assert lower <= ratio <= upper
    swapped = [(running, new) for new, running in pairs]
    assert paired.ratio(swapped) == pytest.approx(1 / ratio)
    assert paired.ratio_interval(swapped) == pytest.approx((1 / upper, 1 / lower))


@given(pairs=PAIRS, factor=st.floats(0.1, 10))
def test_a_slower_version_moves_the_interval_by_its_factor(pairs, factor):
    slower = [(new * factor, running) for new, running in pairs]
    expected = [end * factor for end in paired.ratio_interval(pairs)]
    assert paired.ratio_interval(slower) == pytest.approx(expected)


@settings(max_examples=50)
@given(pairs=PAIRS, wild=st.floats(1e-6, 1e6))
def test_one_wild_pair_of_many_does_not_decide(pairs, wild):
    equal = [(1.0, 1.0)] * 12
    assert paired.ratio_interval([*equal, (wild, 1.0)]) == (1.0, 1.0)


def test_what_has_no_ratio():
    assert paired.ratio([]) is None
    assert paired.ratio_interval([(1.0, 1.0)] * 5) is None
    assert paired.ratio([(1.0, 1.0), (0.0, 1.0)]) is None
    assert paired.ratio_interval([(-1.0, 1.0)] * 8) is None


def simulated_pairs(rng: np.random.Generator, *, slower: float, runs: int = 150) -> list:
    """Returns p95s of the turns that count on a simulated machine, in nanoseconds.

    3 % of spread from run to run, one run in 50 held up by an interrupt, a clock that falls by
    15 % as the chip warms and wanders by 2 % from turn to turn, 2 % that each process keeps for
    its life (where its memory lies), and one turn in 30 beside another process, half as fast. Of
    the latter the kernel tells, so that these pairs are left out and made up for.
    """
    most = QUICK.pairs + QUICK.pairs // 2
    warming = 1 + 0.15 * np.linspace(0, 1, 2 * most) + rng.normal(0, 0.02, 2 * most)
    busy = rng.random(2 * most) < 1 / 30
    spread = rng.lognormal(0, 0.03, (2 * most, runs))
    interrupts = 1 + (rng.random(spread.shape) < 0.02) * rng.exponential(0.5, spread.shape)
    times = 5e6 * (warming * (1 + busy))[:, None] * spread * interrupts
    rank = math.ceil(0.95 * runs) - 1
    p95s = np.partition(times, rank)[:, rank]
    calm = ~(busy[0::2] | busy[1::2])
    turned = np.arange(most) % 2 == 1  # A B, B A, A B, ...
    new = np.where(turned, p95s[1::2], p95s[0::2])[calm]
    running = np.where(turned, p95s[0::2], p95s[1::2])[calm]
    layout = rng.normal(1, 0.02, 2)
    pairs = list(zip(new * layout[0] * slower, running * layout[1], strict=True))
    return pairs[: QUICK.pairs]


def refused_share(slower: float, trials: int) -> float:
    rng = np.random.default_rng(26)
    refused = 0
    for _ in range(trials):
        pairs = simulated_pairs(rng, slower=slower)
        comparison = a_comparison(latency=(paired.ratio(pairs), paired.ratio_interval(pairs)))
        results = judge(a_measurement(), comparison, Budget(), Gates())
        refused += any(result.verdict == "missed" for result in results)
    return refused / trials


@pytest.mark.parametrize(
    ("slower", "least", "most"),
    [(1.0, 0.0, 0.0), (1.05, 0.0, 0.03), (1.2, 0.99, 1.0), (1.25, 0.99, 1.0)],
)
def test_equal_versions_pass_and_slower_ones_do_not(slower, least, most):
    """1,000 simulated comparisons by the quick plan, against the default limit of 1.1."""
    assert least <= refused_share(slower, 1000) <= most
