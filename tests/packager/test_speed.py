"""Which of two models is faster, from a clock that the tests wind."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.targets.speed import compare_speed


class Clock:
    """Time passes only when a model runs."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.load = 1.0

    def __call__(self) -> int:
        return self.now_ns

    def model(self, cost_us: float, noise: np.random.Generator | None = None):
        def run() -> None:
            share = 1.0 if noise is None else float(noise.lognormal(0, 0.3))
            self.now_ns += round(cost_us * 1000 * share * self.load)

        return run


@pytest.mark.parametrize(("mine", "twin"), [(100.0, 50.0), (50.0, 100.0), (80_000.0, 90_000.0)])
def test_times_and_ratio_are_those_of_the_models(mine, twin):
    clock = Clock()
    speed = compare_speed(clock.model(mine), clock.model(twin), clock_ns=clock)
    assert speed.latency_us == pytest.approx(mine)
    assert speed.float_latency_us == pytest.approx(twin)
    assert speed.ratio == pytest.approx(mine / twin)
    assert speed.ratio_interval == pytest.approx((mine / twin, mine / twin))
    assert speed.slower == (mine > twin)


def test_equal_models_on_a_noisy_machine_are_not_called_slower():
    called = 0
    for seed in range(40):
        clock, noise = Clock(), np.random.default_rng(seed)
        speed = compare_speed(clock.model(3000, noise), clock.model(3000, noise), clock_ns=clock)
        called += speed.slower
    assert called <= 3


def test_load_that_comes_and_goes_falls_on_both():
    clock = Clock()
    fast, slow = clock.model(1000), clock.model(1300)

    def loaded(run):
        def run_loaded() -> None:
            clock.load = 5.0 if clock.now_ns // 200_000_000 % 2 else 1.0
            run()

        return run_loaded

    speed = compare_speed(loaded(slow), loaded(fast), clock_ns=clock)
    assert speed.slower
    assert speed.ratio == pytest.approx(1.3, rel=0.05)
