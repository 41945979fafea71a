"""Costs without building, budgets, scans and criteria of structure pruning."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.graphs import GRAPHS, GraphBuilder
from support.sequence_graphs import SEQUENCE_GRAPHS
from trimtab.compress.allocation import Damage, allocate
from trimtab.compress.context import Context
from trimtab.compress.prune import PruneChannels, apply, prune
from trimtab.compress.sensitivity_scan import answer_loss
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.count import count_model
from trimtab.graph.dependencies import analyse, remove_channels
from trimtab.graph.dependencies.cost import Cost, mac_terms, parameter_terms
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile
from trimtab_agent.contract.profile import Profile

ALL_GRAPHS = GRAPHS | SEQUENCE_GRAPHS


@pytest.mark.parametrize("name", ALL_GRAPHS)
def test_costs_are_those_of_the_pruned_graph(name: str) -> None:
    model = ALL_GRAPHS[name]()
    found = analyse(model)
    random = np.random.default_rng(1)
    gone = [
        int(c) for g in found.groups for c in random.permutation(g.classes)[: len(g.classes) // 2]
    ]
    pruned = count_model(remove_channels(model, found, gone))
    assert Cost(found, mac_terms(model)).of([]) == pytest.approx(count_model(model).macs)
    assert Cost(found, mac_terms(model)).of(gone) == pytest.approx(pruned.macs)
    assert Cost(found, parameter_terms(model)).of(gone) == pytest.approx(pruned.parameters)


def context(
    model: ir.Model, profile: str | Profile = "raspberry-pi-5", *, data: bool = True
) -> Context:
    random = np.random.default_rng(3)
    shape = tuple(int(size) for size in model.graph.inputs[0].shape[1:])
    x = random.normal(size=(40, *shape)).astype(np.float32)
    split = Split(inputs=(x,), labels=run_graph(model, [x])[0].argmax(axis=1))
    lines: list[str] = []
    return Context(
        profile=load_profile(profile) if isinstance(profile, str) else profile,
        dataset=Dataset(source="test", train=split, test=split) if data else None,
        teacher=model,
        seed=5,
        log=lines.append,
    )


@pytest.mark.parametrize("what", ["keep", "macs", "parameters", "time"])
@pytest.mark.parametrize("scope", ["global", "uniform", "sensitivity"])
def test_reaches_every_budget_in_every_scope(what: str, scope: str) -> None:
    model = GRAPHS["residual"]()
    step = PruneChannels(**{what: 0.6}, scope=scope, multiple=1)
    pruned = apply(model, step, context(model))
    if what == "keep":
        groups = analyse(pruned).groups
        assert sum(len(group.classes) for group in groups) / 26 == pytest.approx(0.6, abs=0.08)
    elif what == "macs":
        assert count_model(pruned).macs / count_model(model).macs == pytest.approx(0.6, abs=0.1)
    else:
        assert count_model(pruned).parameters < count_model(model).parameters


@pytest.mark.parametrize("name", ["transformer", "recurrent_stack"])
def test_prunes_sequence_models_to_a_share_of_their_parameters(name: str) -> None:
    model = SEQUENCE_GRAPHS[name]()
    pruned = apply(model, PruneChannels(parameters=0.7, multiple=1), context(model))
    assert count_model(pruned).parameters / count_model(model).parameters == pytest.approx(
        0.7, abs=0.1
    )


def lopsided() -> tuple[ir.Model, str, str]:
    """Two parallel layers; the answers hardly depend on the second."""
    b = GraphBuilder(3, 8, 8)
    heard, unheard = b.conv_relu("x", 3, 8), b.conv_relu("x", 3, 8)
    y = b.op(
        "Add", b.conv(heard, 8, 6), b.op("Mul", b.conv(unheard, 8, 6), b.constant(1e-4, np.float32))
    )
    return b.classifier(y, 6), heard, unheard


def test_a_scan_prunes_where_it_does_no_harm() -> None:
    model, _, _ = lopsided()
    result = prune(
        model,
        PruneChannels(keep=0.8, scope="sensitivity"),
        multiple=1,
        context=context(model),
    )
    after = [group.after for group in result.groups]
    assert after[0] == 8
    assert after[1] < 8


def test_rounds_meet_the_same_budget_without_training_between_being_optional() -> None:
    with pytest.raises(msgspec.ValidationError, match="`rounds` train in between"):
        msgspec.convert({"keep": 0.5, "rounds": 3}, PruneChannels)


def test_random_is_a_seeded_control() -> None:
    model = GRAPHS["plain"]()
    step = PruneChannels(keep=0.5, criterion="random", multiple=1)
    one, other = (apply(model, step, context(model)) for _ in range(2))
    again = apply(model, step, replace(context(model), seed=6))
    bytes_ = [ir.to_proto(m).SerializeToString(deterministic=True) for m in (one, other, again)]
    assert bytes_[0] == bytes_[1] != bytes_[2]


def test_batch_norm_scales_choose_where_the_graph_has_them() -> None:
    b = GraphBuilder(3, 8, 8)
    x = b.op("Relu", b.batch_norm(b.conv("x", 3, 8), 8))
    model = b.classifier(x, 8)
    scale = next(n for n in model.graph if n.op_type == "BatchNormalization").inputs[1]
    array = np.array([5, 0.1, 4, 0.2, 3, 0.1, 2, 0.1], np.float32)
    scale.const_value = ir.tensor(array, name=scale.name)
    pruned = prune(model, PruneChannels(keep=0.5, criterion="batch_norm"), multiple=1).model
    np.testing.assert_array_equal(
        pruned.graph.initializers[scale.name].const_value.numpy(), [5, 4, 3, 2]
    )


def without(**figures: object) -> Profile:
    return msgspec.structs.replace(load_profile("raspberry-pi-5"), **figures)


@pytest.mark.parametrize(
    ("step", "profile", "data", "error", "message"),
    [
        ({"time": 0.5}, without(cores=()), True, RecipeError, r"does not state cores\[0\].max_mhz"),
        ({"time": 0.5}, without(isa=()), True, RecipeError, "does not state isa"),
        (
            {"time": 0.5},
            without(memory_bandwidth_bytes_per_s=None),
            True,
            RecipeError,
            "does not state memory_bandwidth_bytes_per_s",
        ),
        ({"keep": 0.5, "scope": "sensitivity"}, without(), False, DataError, "need data"),
        ({"keep": 0.5, "criterion": "taylor"}, without(), False, DataError, "'taylor' needs data"),
        ({"keep": 0.5, "criterion": "obd"}, without(), False, DataError, "'obd' needs data"),
        (
            {"keep": 0.5, "criterion": "batch_norm"},
            without(),
            True,
            ModelError,
            "no batch norm follows 'c0'",
        ),
        (
            {"keep": 0.5, "rounds": 2, "epochs_per_round": 1},
            without(),
            False,
            DataError,
            "need data",
        ),
    ],
)
def test_says_what_is_missing(
    step: dict, profile: Profile, data: bool, error: type[Exception], message: str
) -> None:
    model = GRAPHS["residual"]()
    with pytest.raises(error, match=message):
        apply(model, PruneChannels(**step), context(model, profile, data=data))


def test_loss_counts_answers_first_and_errors_last() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 1.0]])
    loss = answer_loss(reference, None)
    assert loss(reference) == 0
    assert 0 < loss(reference * 1.1) < loss(reference[::-1] * 1.0) <= 1.5
    assert answer_loss(reference, np.array([0, 0]))(np.array([[1.0, 0], [1, 0]])) < 0.5
    assert answer_loss(np.arange(4.0)[:, None], None)(np.ones((4, 1))) > 0


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_allocation_meets_what_can_be_met(sizes: list[int], share: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    allowed = [tuple(range(1, size + 1)) for size in sizes]
    damages = [Damage(counts=(size, 1), losses=(0.0, float(random.random()))) for size in sizes]
    target = share * sum(sizes)
    counts = allocate(damages, allowed, lambda c: float(sum(c)), target)
    assert all(count in options for count, options in zip(counts, allowed, strict=True))
    assert abs(sum(counts) - max(target, len(sizes))) <= 0.5 + 1e-9


def test_a_loss_rises_with_what_is_gone_per_kept() -> None:
    damage = Damage(counts=(8, 4, 2), losses=(0.0, 0.3, 1.5))
    assert damage.at(8) == 0
    assert damage.at(4) == pytest.approx(0.3)
    assert damage.at(2) == pytest.approx(1.5)
    assert damage.at(6) == pytest.approx(0.1)  # a third of what 4 gone for 4 cost
    assert damage.at(1) == pytest.approx(3.5)
    assert Damage(counts=(8,), losses=(0.0,)).at(8) == 0


def test_losses_that_stop_to_rise_empty_no_group() -> None:
    saturated = Damage(counts=(16, 12, 8, 4), losses=(0.0, 0.8, 0.9, 0.9))
    mild = Damage(counts=(16, 12, 8, 4), losses=(0.0, 0.1, 0.2, 0.3))
    allowed = [tuple(range(1, 17))] * 2
    kept = allocate([saturated, mild], allowed, lambda c: float(sum(c)), 16)
    assert kept[0] > kept[1] >= 3
    losses = [saturated.at(count) for count in range(16, 0, -1)]
    assert losses == sorted(losses)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["taylor", "obd"])
def test_gradients_choose_too_and_rounds_train(criterion: str) -> None:
    model = GRAPHS["plain"]()
    step = PruneChannels(macs=0.4, criterion=criterion, multiple=1, rounds=2, epochs_per_round=1)
    pruned = apply(model, step, context(model))
    assert count_model(pruned).macs / count_model(model).macs == pytest.approx(0.4, abs=0.1)
