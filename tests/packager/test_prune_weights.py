"""Weights set to zero in real graphs, and that the graphs still run."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from support.graphs import GRAPHS, GraphBuilder
from support.techniques import context, samples, small_dataset
from trimtab.compress.prune_weights import PruneWeights, apply
from trimtab.compress.weights import find_weights
from trimtab.errors import DataError, ModelError
from trimtab.graph.access import held
from trimtab.graph.count import count_model
from trimtab.graph.run import run_graph


def pruned(model: ir.Model, **step: object) -> ir.Model:
    return apply(model, msgspec.convert(step, PruneWeights), context(model))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_prunes_any_graph_and_leaves_its_input_alone(name: str, scope: str) -> None:
    model = GRAPHS[name]()
    before = count_model(model)
    result = pruned(model, sparsity=0.5, scope=scope)
    assert count_model(model) == before
    after = find_weights(result)
    zeros = sum(int((weight.array == 0).sum()) for weight in after)
    total = sum(weight.array.size for weight in after)
    assert zeros / total == pytest.approx(0.5, abs=len(after) / total)
    assert before.nonzero_parameters - count_model(result).nonzero_parameters == zeros
    assert all(held(weight.value) == "zeros" for weight in after)
    (output,) = run_graph(result, samples(model))
    assert np.isfinite(output).all()


def test_outputs_are_those_of_the_model_with_its_least_weights_gone() -> None:
    b = GraphBuilder(6)
    weight = b.weight(6, 5)
    model = b.build(b.op("MatMul", "x", weight))
    array = np.array(model.graph.initializers[weight].const_value.numpy())
    array[np.abs(array) < np.sort(np.abs(array).ravel())[15]] = 0
    (x,) = samples(model)
    (output,) = run_graph(pruned(model, sparsity=0.5), [x])
    np.testing.assert_allclose(output, x @ array, rtol=1e-5, atol=1e-6)


def test_same_share_of_each_layer() -> None:
    model = GRAPHS["plain"]()
    for weight in find_weights(pruned(model, sparsity=0.75, scope="layer")):
        assert (weight.array == 0).mean() == pytest.approx(0.75, abs=0.5 / weight.array.size)


def test_two_of_four_input_channels_at_every_position() -> None:
    result = pruned(GRAPHS["plain"](), pattern="2:4")
    second = find_weights(result)[1].array  # Conv, 12 x 8 x 3 x 3
    runs = second.transpose(0, 2, 3, 1).reshape(-1, 4)
    assert ((runs != 0).sum(axis=1) == 2).all()
    assert (find_weights(result)[0].array != 0).all()  # its 3 input channels are no whole run


def test_blocks_go_as_one() -> None:
    step = {"sparsity": 0.5, "scope": "layer", "block": [2, 4]}
    weights = find_weights(pruned(GRAPHS["perceptron"](), **step))
    for weight in weights:
        zeros = weight.matrix(weight.array) == 0
        for i in range(0, zeros.shape[0], 2):
            for j in range(0, zeros.shape[1], 4):
                assert len(set(zeros[i : i + 2, j : j + 4].ravel().tolist())) == 1


def test_random_is_repeatable_and_unlike_magnitude() -> None:
    model = GRAPHS["plain"]()
    one, same, other = (
        find_weights(pruned(model, sparsity=0.5, criterion=criterion))[1].array
        for criterion in ("random", "random", "magnitude")
    )
    np.testing.assert_array_equal(one, same)
    assert ((one == 0) != (other == 0)).any()


def test_pruning_again_keeps_what_is_zero() -> None:
    once = pruned(GRAPHS["plain"](), sparsity=0.4, criterion="random")
    twice = pruned(once, sparsity=0.6, criterion="random")
    for before, after in zip(find_weights(once), find_weights(twice), strict=True):
        assert (after.array[before.array == 0] == 0).all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({}, "give either `sparsity` or `pattern`, and not both"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "give either `sparsity` or `pattern`"),
        ({"pattern": "4:4"}, "`pattern` '4:4' prunes nothing: N must be less than M"),
        ({"pattern": "2:4", "block": [1, 2]}, "give either `pattern` or `block`"),
        ({"sparsity": 0.5, "rounds": 3}, "give `epochs_per_round`, at least 1"),
        ({"sparsity": 1.0}, "Expected `float` < 1.0"),
    ],
)
def test_refuses_steps_that_make_no_sense(step: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(step, PruneWeights)


def test_refuses_to_empty_a_layer_and_names_it() -> None:
    b = GraphBuilder(3, 8, 8)
    model = b.classifier(b.conv_relu("x", 3, 8), 8)
    with pytest.raises(ModelError, match=r"would leave none of the 40 weights of 'c2'; prune less"):
        pruned(model, sparsity=0.99, scope="layer")


def test_a_layer_that_was_empty_before_is_left_so() -> None:
    """As where training starts from a branch that adds nothing."""
    model = GRAPHS["residual"]()
    name = find_weights(model)[1].name
    array = np.zeros_like(find_weights(model)[1].array)
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    assert any(weight.array.any() for weight in find_weights(pruned(model, sparsity=0.5)))


def test_small_weights_do_not_cost_a_layer_its_place() -> None:
    """A layer may be scaled down and the next one up: the function is the same."""
    b = GraphBuilder(3, 8, 8)
    model = b.classifier(b.conv_relu("x", 3, 8), 8)
    expected = [weight.array == 0 for weight in find_weights(pruned(model, sparsity=0.8))]
    array = find_weights(model)[0].array * np.float32(2**-10)
    model.graph.initializers["c0"].const_value = ir.tensor(array, name="c0")
    for weight, zeros in zip(find_weights(pruned(model, sparsity=0.8)), expected, strict=True):
        np.testing.assert_array_equal(weight.array == 0, zeros)


def test_refuses_a_pattern_that_fits_no_layer() -> None:
    b = GraphBuilder(3, 8, 8)
    with pytest.raises(ModelError, match="no weight has 16 input channels"):
        pruned(b.classifier(b.conv_relu("x", 3, 8), 8), pattern="8:16")


def test_refuses_weights_that_are_not_finite() -> None:
    model = GRAPHS["plain"]()
    name = find_weights(model)[0].name
    array = np.array(find_weights(model)[0].array)
    array.flat[3] = np.nan
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    with pytest.raises(ModelError, match=f"weight '{name}' holds NaN"):
        pruned(model, sparsity=0.5)


def test_refuses_a_model_without_weights() -> None:
    b = GraphBuilder(5)
    with pytest.raises(ModelError, match=r"has no float32 weights .* \(operators: Relu\)"):
        pruned(b.build(b.op("Relu", "x")), sparsity=0.5)


@pytest.mark.parametrize("step", [
    {"sparsity": 0.5, "criterion": "taylor"},
    {"sparsity": 0.5, "criterion": "obd"},
    {"sparsity": 0.5, "epochs_per_round": 1},
])  # fmt: skip
def test_says_when_data_is_missing(step: dict[str, object]) -> None:
    with pytest.raises(DataError, match="needs data"):
        pruned(GRAPHS["plain"](), **step)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["taylor", "obd"])
def test_gradients_choose_what_the_outputs_need(criterion: str) -> None:
    """A large weight on an input that is always zero matters by its size only."""
    b = GraphBuilder(6)
    weight = b.weight(6, 5)
    model = b.build(b.op("MatMul", "x", weight))
    array = np.array(model.graph.initializers[weight].const_value.numpy())
    array[2] = 100
    model.graph.initializers[weight].const_value = ir.tensor(array, name=weight)
    data = small_dataset(model)
    data.train.inputs[0][:, 2] = 0
    step = PruneWeights(sparsity=0.3, criterion=criterion)
    (left,) = find_weights(apply(model, step, context(model, data)))
    assert (left.array[2] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["taylor", "obd"])
def test_gradients_of_a_model_with_an_embedding(criterion: str) -> None:
    """TensorFlow gives those of a table by the rows that were read."""
    b = GraphBuilder(6)
    index = b.op("Cast", b.op("Abs", "x"), to=int(TensorProto.INT64))
    rows = b.op("Gather", b.weight(20, 8), index)
    model = b.build(b.op("MatMul", b.op("ReduceMean", rows, axes=[1], keepdims=0), b.weight(8, 5)))
    step = PruneWeights(sparsity=0.5, criterion=criterion)
    (left,) = find_weights(apply(model, step, context(model, small_dataset(model))))
    assert (left.array == 0).mean() == pytest.approx(0.5)


@pytest.mark.slow
def test_rounds_train_in_between_and_end_at_the_wished_sparsity() -> None:
    model = GRAPHS["plain"]()
    lines: list[str] = []
    surroundings = context(model, small_dataset(model), lines.append)
    step = PruneWeights(sparsity=0.8, rounds=3, epochs_per_round=1)
    result = apply(model, step, surroundings)
    weights = find_weights(result)
    zeros = sum(int((weight.array == 0).sum()) for weight in weights)
    assert zeros / sum(weight.array.size for weight in weights) == pytest.approx(0.8, abs=0.01)
    assert sum("round" in line for line in lines) == 3
