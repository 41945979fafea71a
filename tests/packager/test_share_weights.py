"""Weights that share values, in real graphs."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.graphs import GRAPHS
from support.techniques import context, samples, small_dataset
from trimtab.compress.prune_weights import PruneWeights
from trimtab.compress.prune_weights import apply as prune_weights
from trimtab.compress.quantize import QuantizeInt8
from trimtab.compress.quantize import apply as quantize_int8
from trimtab.compress.share_weights import ShareWeights, apply
from trimtab.compress.weights import find_weights
from trimtab.errors import DataError
from trimtab.graph.access import held
from trimtab.graph.run import run_graph


def shared(model: ir.Model, **step: object) -> ir.Model:
    return apply(model, msgspec.convert(step, ShareWeights), context(model))


def distinct(array: np.ndarray) -> int:
    return int(np.unique(array).size)


@pytest.mark.parametrize("name", GRAPHS)
def test_shares_in_any_graph_and_leaves_its_input_alone(name: str) -> None:
    model = GRAPHS[name]()
    before = [weight.array.copy() for weight in find_weights(model)]
    result = shared(model, values=4)
    for weight, old in zip(find_weights(model), before, strict=True):
        np.testing.assert_array_equal(weight.array, old)
    for weight, old in zip(find_weights(result), before, strict=True):
        assert distinct(weight.array) <= 4
        assert held(weight.value) == "clusters"
        # The clusters are intervals: the order of weights does not change.
        assert (np.diff(weight.array.ravel()[np.argsort(old.ravel())]) >= 0).all()
    (output,) = run_graph(result, samples(model))
    assert np.isfinite(output).all()


@given(st.integers(2, 40), st.sampled_from(["tensor", "channels", "model"]), st.integers(1, 5))
def test_every_scope_has_as_many_values_as_wished(values: int, scope: str, channels: int) -> None:
    result = shared(GRAPHS["perceptron"](), values=values, scope=scope, channels=channels)
    weights = find_weights(result)
    if scope == "model":
        assert distinct(np.concatenate([weight.array.ravel() for weight in weights])) <= values
    for weight in weights:
        matrix = weight.matrix(weight.array)
        size = channels if scope == "channels" else len(matrix)
        for start in range(0, len(matrix), size):
            assert distinct(matrix[start : start + size]) <= values


def test_more_values_are_nearer_to_the_original() -> None:
    model = GRAPHS["residual"]()
    inputs = samples(model)
    (expected,) = run_graph(model, inputs)
    errors = [
        float(np.abs(run_graph(shared(model, values=values), inputs)[0] - expected).max())
        for values in (4, 16, 256)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * np.abs(expected).max()


def test_zeros_of_pruning_stay_zero_and_count_as_a_value() -> None:
    model = prune_weights(GRAPHS["plain"](), PruneWeights(sparsity=0.6), context(GRAPHS["plain"]()))
    for weight, old in zip(find_weights(shared(model, values=5)), find_weights(model), strict=True):
        np.testing.assert_array_equal(weight.array == 0, old.array == 0)
        assert distinct(weight.array) <= 5


def test_few_values_stay_few_in_int8() -> None:
    model = GRAPHS["plain"]()
    surroundings = context(model, small_dataset(model))
    step = QuantizeInt8(weights_per_channel=False)
    result = quantize_int8(shared(model, values=8), step, surroundings)
    codes = [
        value.const_value.numpy()
        for value in result.graph.initializers.values()
        if value.const_value.dtype == ir.DataType.INT8 and value.const_value.size > 1
    ]
    assert codes
    assert all(distinct(array) <= 8 for array in codes)


def test_says_when_data_is_missing() -> None:
    with pytest.raises(DataError, match="share_weights: training the values needs data"):
        shared(GRAPHS["plain"](), epochs=1)


@pytest.mark.parametrize("values", [1, 257])
def test_refuses_numbers_of_values_out_of_range(values: int) -> None:
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        msgspec.convert({"values": values}, ShareWeights)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_training_moves_values_and_keeps_clusters(scope: str) -> None:
    model = prune_weights(GRAPHS["plain"](), PruneWeights(sparsity=0.5), context(GRAPHS["plain"]()))
    surroundings = context(model, small_dataset(model))
    step = ShareWeights(values=6, scope=scope, epochs=2, learning_rate=1e-2)
    before = find_weights(shared(model, values=6, scope=scope))
    after = find_weights(apply(model, step, surroundings))
    old, new = (np.concatenate([w.array.ravel() for w in weights]) for weights in (before, after))
    assert (old != new).any()
    np.testing.assert_array_equal(old == 0, new == 0)
    if scope == "model":
        assert distinct(new) <= 6
    for one, other in zip(before, after, strict=True):
        for value in np.unique(one.array):
            assert distinct(other.array[one.array == value]) == 1
