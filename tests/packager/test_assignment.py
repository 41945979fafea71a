"""The order in which layers become more frugal, and how far a budget lets it go."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compress.assignment import Option, assign, most_within, moves

_FORMS = ("half", "eight", "four")
_options = st.lists(
    st.builds(
        Option,
        form=st.sampled_from(_FORMS),
        saved=st.integers(-5, 100).map(float),
        distortion=st.floats(0, 10) | st.just(float("inf")),
    ),
    max_size=3,
    unique_by=lambda option: option.form,
)
_layers = st.dictionaries(st.sampled_from("abcdef"), _options, max_size=6)


def test_the_cheapest_bytes_come_first() -> None:
    path = moves(
        {
            "touchy": [Option(form="four", saved=100, distortion=9)],
            "robust": [Option(form="four", saved=100, distortion=1)],
            "robust and large": [Option(form="four", saved=500, distortion=1)],
        }
    )
    assert [move.layer for move in path] == ["robust and large", "robust", "touchy"]


def test_a_layer_goes_from_mild_to_harsh() -> None:
    given = [
        Option(form="four", saved=70, distortion=3),
        Option(form="eight", saved=60, distortion=1),
    ]
    assert [move.form for move in moves({"a": given})] == ["eight", "four"]


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (Option(form="bad", saved=40, distortion=2), "saves less than another and is worse"),
        (Option(form="bad", saved=0, distortion=0), "saves nothing"),
        (Option(form="bad", saved=-3, distortion=0), "takes more than float"),
        (Option(form="bad", saved=90, distortion=float("inf")), "gives no finite outputs"),
    ],
)
def test_a_form_that_is_no_use_is_left_out(option: Option, why: str) -> None:
    given = [option, Option(form="good", saved=60, distortion=1)]
    assert [move.form for move in moves({"a": given})] == ["good"], why


@given(_layers)
def test_every_move_saves_more_and_prices_rise(layers: dict[str, list[Option]]) -> None:
    path = moves(layers)
    assert [move.price for move in path] == sorted(move.price for move in path)
    saved = {
        (layer, option.form): option.saved for layer, given in layers.items() for option in given
    }
    totals = [
        sum(saved[layer, form] for layer, form in assign(path, count).items())
        for count in range(len(path) + 1)
    ]
    assert all(one < other for one, other in itertools.pairwise(totals))


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_budget_never_allows_fewer_moves(
    drops: list[float], one: float, other: float
) -> None:
    """Also where drops jump up and down along the order."""
    small, large = sorted((one, other))

    def most(budget: float) -> int:
        return most_within(len(drops), lambda count: drops[count - 1] <= budget)

    counts = [most(small), most(large)]
    assert counts[0] <= counts[1]
    assert all(
        count == 0 or drops[count - 1] <= budget
        for count, budget in zip(counts, (small, large), strict=True)
    )


@given(st.integers(0, 200), st.integers(0, 200))
def test_few_models_are_measured(last: int, limit: int) -> None:
    asked = []

    def within(count: int) -> bool:
        asked.append(count)
        return count <= limit

    assert most_within(last, within) == min(last, limit)
    assert len(asked) <= 1 + max(last, 1).bit_length()
