"""Forms of layers: chosen by what whole models lose."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import GRAPHS
from support.techniques import context, small_dataset
from support.touchy_graphs import touchy
from trimtab.compress.context import Context
from trimtab.compress.mixed_precision import MixedPrecision, apply
from trimtab.compress.quantize_weights import QuantizeWeights
from trimtab.compress.quantize_weights import apply as quantize_weights
from trimtab.compress.validation import Validation
from trimtab.compress.weights import find_weights
from trimtab.errors import DataError, ModelError
from trimtab.graph.access import set_initializer
from trimtab.graph.save import weight_bytes
from trimtab.hardware import load_profile
from trimtab_agent.contract.profile import Profile, ProfileRuntime

QUICK = {"samples": 64, "calibration_samples": 16}


def surroundings(model: ir.Model, profile: Profile | None = None) -> Context:
    found = context(model, small_dataset(model, 64))
    return found if profile is None else replace(found, profile=profile)


def mixed(model: ir.Model, given: Context, **step: object) -> ir.Model:
    return apply(model, msgspec.convert({**QUICK, **step}, MixedPrecision), given)


def forms(given: Context) -> dict[str, str]:
    return {line.layer: line.form for line in given.layer_forms}


def without_int8() -> Profile:
    runtime = ProfileRuntime(name="onnxruntime", dtypes=("float32",))
    return msgspec.structs.replace(load_profile("generic-x86-64"), runtimes=(runtime,))


@pytest.mark.parametrize(
    "name", ["plain", "residual", "perceptron", "shared_weight", "time_series"]
)
def test_any_graph_keeps_the_budget_as_a_whole(name: str) -> None:
    model = GRAPHS[name]()
    given = surroundings(model)
    result = mixed(model, given, max_drop=0.1)
    assert given.dataset is not None
    measured = Validation(model, given.dataset, samples=64, folds=4, seed=0)
    assert measured.drop(result) <= 0.1
    assert weight_bytes(result) < weight_bytes(model)
    assert set(forms(given)) == {weight.name for weight in find_weights(model, tables=True)}


def test_a_larger_budget_never_gives_a_larger_model() -> None:
    model = touchy()
    sizes = [
        weight_bytes(mixed(model, surroundings(model), max_drop=budget))
        for budget in (0.0, 0.02, 0.1, 0.5, 1.0)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_a_layer_that_is_known_to_be_touchy_keeps_more_bits() -> None:
    model = touchy()
    given = surroundings(model)
    mixed(model, given, max_drop=0.2)
    first, last = given.layer_forms
    assert first.form == "weights4"
    assert last.form in {"float16", "float32"}


def test_the_same_seed_gives_the_same_forms() -> None:
    model = GRAPHS["residual"]()
    runs = [surroundings(model), surroundings(model)]
    for given in runs:
        mixed(model, given, max_drop=0.05)
    assert runs[0].layer_forms == runs[1].layer_forms


def test_nothing_becomes_int8_where_no_runtime_runs_it() -> None:
    model = GRAPHS["plain"]()
    given = surroundings(model, without_int8())
    result = mixed(model, given, max_drop=0.5)
    assert "QuantizeLinear" not in {node.op_type for node in result.graph}
    assert set(forms(given).values()) <= {"weights8", "weights4"}


def test_weights_beyond_16_bits_are_not_cast() -> None:
    model = GRAPHS["plain"]()
    given = surroundings(model)
    first = find_weights(model)[0]
    set_initializer(first.value, first.array * np.float32(1e6))
    mixed(model, given, max_drop=0.0)
    assert forms(given)[first.name] != "float16"


def test_time_takes_int8_and_float_only() -> None:
    model = GRAPHS["plain"]()
    lines: list[str] = []
    given = replace(surroundings(model), log=lines.append)
    mixed(model, given, max_drop=0.5, goal="time")
    assert set(forms(given).values()) <= {"int8", "float32"}
    assert any("us on this machine after 0 moves" in line for line in lines)


def test_without_labels_agreement_counts() -> None:
    model = GRAPHS["plain"]()
    given = surroundings(model)
    assert given.dataset is not None
    train = type(given.dataset.train)(inputs=given.dataset.train.columns)
    unlabelled = replace(given, dataset=replace(given.dataset, train=train))
    assert weight_bytes(mixed(model, unlabelled, max_drop=0.1)) < weight_bytes(model)


def test_an_interrupt_leaves_the_best_that_kept_the_budget() -> None:
    model = GRAPHS["residual"]()

    def interrupt(line: str) -> None:
        if "moves lose" in line and given.kept.model is not None:
            raise KeyboardInterrupt

    given = replace(surroundings(model), log=interrupt)
    with pytest.raises(KeyboardInterrupt):
        mixed(model, given, max_drop=0.02)
    assert given.kept.model is not None
    assert weight_bytes(given.kept.model) < weight_bytes(model)


def test_the_input_is_left_as_it_is() -> None:
    model = GRAPHS["plain"]()
    before = [value.const_value.numpy().copy() for value in model.graph.initializers.values()]
    mixed(model, surroundings(model), max_drop=0.5)
    after = [value.const_value.numpy() for value in model.graph.initializers.values()]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_refuses_what_it_cannot_measure() -> None:
    model = GRAPHS["plain"]()
    with pytest.raises(DataError, match="mixed_precision: what a form costs is measured on data"):
        mixed(model, context(model))
    quantized = quantize_weights(model, QuantizeWeights(), context(model))
    with pytest.raises(ModelError, match="mixed_precision: the model is quantized already"):
        mixed(quantized, surroundings(model))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"max_drop": -0.1}, ">= 0"),
        ({"max_drop": 2}, "<= 1"),
        ({"goal": "energy"}, "Invalid enum value 'energy'"),
        ({"samples": 3}, ">= 8"),
        ({"folds": 1}, ">= 2"),
        ({"bits": 4}, "unknown field `bits`"),
    ],
)
def test_refuses_parameters_that_mean_nothing(step: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(step, MixedPrecision)
