"""Faults of late steps show before the training of early ones, and training never starts."""

from __future__ import annotations

from typing import Any

import pytest

from support.graphs import GRAPHS
from support.techniques import context, small_dataset
from trimtab.compress.recipe import parse_recipe
from trimtab.compress.rehearsal import rehearse, untrained
from trimtab.errors import DataError, ModelError
from trimtab.graph.clean import clean
from trimtab_agent.errors import CallerError

LONG: dict[str, Any] = {"fine_tune": {"epochs": 1000}}


def check(*steps: dict[str, Any], has_data: bool = True) -> None:
    model = clean(GRAPHS["perceptron"]())
    data = small_dataset(model) if has_data else None
    recipe = parse_recipe({"steps": [{k: v} for step in steps for k, v in step.items()]}, "test")
    rehearse(model, recipe.steps, context(model, data))


@pytest.mark.parametrize(
    ("late", "message"),
    [
        ({"factorize": {"rank": 999}}, "rank"),
        ({"prune_weights": {"pattern": "2:64"}}, "no weight has 64 input channels"),
        ({"dequantize": {}}, "the model is not quantized; leave out this step"),
        ({"early_exit": {"exits": ["nowhere"]}}, "nowhere"),
    ],
)
def test_late_faults_come_first(late: dict[str, Any], message: str) -> None:
    with pytest.raises(CallerError, match=message):
        check(LONG, late)


def test_what_is_quantized_cannot_be_pruned_and_that_shows_first() -> None:
    with pytest.raises(ModelError, match=r"before the quantization, or `dequantize: \{\}` before"):
        check(LONG, {"quantize_int8": {}}, {"prune_channels": {"macs": 0.5}})


@pytest.mark.parametrize(
    "step",
    [
        {"fine_tune": {}},
        {"distil": {}},
        {"early_exit": {}},
        {"quantize_int8": {}},
        {"share_weights": {"epochs": 1}},
        {"factorize": {"max_drop": 0.01}},
        {"prune_weights": {"sparsity": 0.5, "criterion": "taylor"}},
        {"prune_channels": {"macs": 0.5, "scope": "sensitivity"}},
    ],
)
def test_a_step_that_needs_data_is_named_by_its_place(step: dict[str, Any]) -> None:
    name = next(iter(step))
    with pytest.raises(DataError, match=rf"\$\.steps\[1\]\.{name} needs data: give --data"):
        check({"quantize_weights": {}}, step, has_data=False)


def test_sound_recipes_pass() -> None:
    check(LONG, {"quantize_int8": {}}, {"dequantize": {}}, {"prune_channels": {"macs": 0.5}})
    check(LONG, {"prune_weights": {"sparsity": 0.5, "rounds": 3, "epochs_per_round": 900}})
    check({"prune_weights": {"sparsity": 0.5}}, {"share_weights": {}}, has_data=False)


def test_untrained_steps_change_the_graph_alike() -> None:
    steps = parse_recipe(
        {"steps": [{"prune_channels": {"macs": 0.5, "criterion": "obd", "scope": "sensitivity"}}]},
        "test",
    ).steps
    quick = untrained(steps[0]).parameters
    assert (quick.macs, quick.criterion, quick.scope) == (0.5, "l2", "uniform")  # type: ignore[attr-defined]
