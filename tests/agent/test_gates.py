"""The gates: which figures stop a package, which do not, and what is unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.measurements import a_comparison, a_measurement
from trimtab_agent.contract.manifest import Budget
from trimtab_agent.contract.messages import Gates
from trimtab_agent.gates import judge

NO_RATIOS = Gates(latency_ratio=None, memory_ratio=None, energy_ratio=None)
NO_BUDGET = Budget()


def verdicts(results) -> dict[str, str]:
    return {f"{result.gate}/{result.against}": result.verdict for result in results}


@pytest.mark.parametrize(
    ("figures", "limit_us", "value", "verdict"),
    [
        ({"p95_us": 1000.0}, 1000.0, 1000.0, "kept"),
        ({"p95_us": 1000.1}, 1000.0, 1000.1, "missed"),
        # too few runs: the 90th percentile and the median bound the 95th from below
        ({"p95_us": None, "p90_us": 950.0}, 900.0, 950.0, "missed"),
        ({"p95_us": None, "p90_us": 950.0}, 1000.0, None, "unknown"),
        ({"p95_us": None, "p90_us": None, "p50_us": 950.0}, 900.0, 950.0, "missed"),
        ({"p95_us": None, "p90_us": None, "p50_us": 950.0}, 1000.0, None, "unknown"),
    ],
)
def test_latency_against_the_budget(figures, limit_us, value, verdict):
    budget = Budget(latency_p95_us=limit_us)
    (result,) = judge(a_measurement(**figures), None, budget, Gates())
    assert (result.value, result.verdict) == (value, verdict)
    assert (result.gate, result.against, result.limit) == ("latency", "budget", limit_us)


def test_memory_and_energy_against_the_budget():
    budget = Budget(peak_memory_bytes=100, energy_mj=5.0)
    small = a_measurement(peak_bytes=100, net_mj=5.0, net_uncertainty_mj=1.0)
    big = a_measurement(peak_bytes=101, net_mj=5.1)
    unmeasured = a_measurement(peak_bytes=100)
    assert verdicts(judge(small, None, budget, Gates())) == {
        "memory/budget": "kept", "energy/budget": "kept",
    }  # fmt: skip
    assert verdicts(judge(big, None, budget, Gates())) == {
        "memory/budget": "missed", "energy/budget": "missed",
    }  # fmt: skip
    assert judge(small, None, budget, Gates())[1].interval == pytest.approx((3.04, 6.96))
    (_, energy) = judge(unmeasured, None, budget, Gates())
    assert (energy.verdict, energy.value, energy.interval) == ("unknown", None, None)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (None, "unknown"),
        ((1.3, (1.11, 1.5)), "missed"),
        ((1.3, (1.1, 1.5)), "kept"),  # the limit itself is in the interval
        ((1.3, (0.9, 1.9)), "kept"),  # may be chance
        ((0.8, (0.7, 0.9)), "kept"),
    ],
)
@pytest.mark.parametrize("gate", ["latency", "energy"])
def test_ratios_with_an_interval(gate, ratio, verdict):
    comparison = a_comparison(**{"latency": None, "energy": None, gate: ratio})
    results = judge(a_measurement(), comparison, NO_BUDGET, Gates())
    assert verdicts(results)[f"{gate}/running"] == verdict


@pytest.mark.parametrize(("ratio", "verdict"), [(None, "unknown"), (1.1, "kept"), (1.11, "missed")])
def test_the_memory_ratio_decides_by_itself(ratio, verdict):
    results = judge(a_measurement(), a_comparison(memory=ratio), NO_BUDGET, Gates())
    assert verdicts(results)["memory/running"] == verdict


def test_what_is_not_asked_for_gives_no_result():
    budget = Budget(latency_p95_us=1.0, wire_bytes=1, accuracy_drop=0.0)
    assert judge(a_measurement(), a_comparison(), budget, NO_RATIOS)[1:] == ()
    assert judge(a_measurement(), None, NO_BUDGET, Gates()) == ()
    no_budget = Gates(budget=False, memory_ratio=None, energy_ratio=None)
    assert verdicts(judge(a_measurement(), a_comparison(), budget, no_budget)) == {
        "latency/running": "kept"
    }


FIGURES = st.floats(1e-3, 1e9)


@given(value=FIGURES, limit=FIGURES, lower=FIGURES, width=FIGURES)
def test_a_verdict_follows_from_what_the_result_itself_says(value, limit, lower, width):
    measurement = a_measurement(p95_us=value, net_mj=value)
    comparison = a_comparison(latency=(value, (lower, lower + width)), memory=value)
    gates = Gates(latency_ratio=limit, memory_ratio=limit, energy_ratio=limit)
    budget = Budget(latency_p95_us=limit, energy_mj=limit)
    for result in judge(measurement, comparison, budget, gates):
        by_interval = result.against == "running" and result.gate != "memory"
        if result.value is None:
            assert result.verdict == "unknown"
        else:
            decisive = result.interval[0] if by_interval else result.value
            assert result.verdict == ("missed" if decisive > result.limit else "kept")
