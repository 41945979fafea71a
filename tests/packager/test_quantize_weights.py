"""Weights in few bits, in real graphs and in the runtimes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import GRAPHS, GraphBuilder
from support.techniques import context, samples, small_dataset
from trimtab.compress.prune_weights import PruneWeights
from trimtab.compress.prune_weights import apply as prune_weights
from trimtab.compress.quantize_weights import BITS_KEY, QuantizeWeights, apply
from trimtab.compress.weights import find_weights
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.count import count_model
from trimtab.graph.run import run_graph
from trimtab.targets import export

FORMS = {
    "int8": {"bits": 8},
    "int8 by group": {"bits": 8, "group": 8},
    "uint8": {"bits": 8, "symmetric": False},
    "int4": {"bits": 4},
    "int4 by uneven group": {"bits": 4, "group": 5},
    "uint4 by group": {"bits": 4, "group": 8, "symmetric": False},
    "2 bits": {"bits": 2, "group": 8},
    "signs": {"bits": 1},
}


def quantized(model: ir.Model, **step: object) -> ir.Model:
    return apply(model, msgspec.convert(step, QuantizeWeights), context(model))


def stored(model: ir.Model) -> list[ir.Value]:
    return [v for v in model.graph.initializers.values() if BITS_KEY in v.metadata_props]


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("form", ["int8", "uint4 by group"])
def test_quantizes_any_graph_and_leaves_its_input_alone(name: str, form: str) -> None:
    model = GRAPHS[name]()
    before = count_model(model)
    result = quantized(model, **FORMS[form])
    after = count_model(result)
    assert count_model(model) == before
    assert (after.parameters, after.macs) == (before.parameters, before.macs)
    assert after.weight_bytes < before.weight_bytes
    assert find_weights(result) == []
    expected, (output,) = run_graph(model, samples(model))[0], run_graph(result, samples(model))
    assert np.abs(output - expected).max() < 0.25 * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_saved_and_runs(form: str, tmp_path: Path) -> None:
    model = GRAPHS["encoder_decoder"]()
    result = quantized(model, **FORMS[form])
    inputs = samples(model)
    written = export(result, "onnxruntime", tmp_path, samples=tuple(inputs))
    again = ir.load(written.path)
    assert [v.metadata_props[BITS_KEY] for v in stored(again)] == (
        [str(FORMS[form]["bits"])] * len(find_weights(model))
    )


@pytest.mark.parametrize("form", FORMS)
def test_openvino_computes_the_same(form: str, tmp_path: Path) -> None:
    """Left alone, OpenVINO rounds the activations of such layers to 8 bits."""
    model = GRAPHS["perceptron"]()
    result = quantized(model, **FORMS[form])
    written = export(result, "openvino", tmp_path, samples=tuple(samples(model, 32)))
    assert written.comparison.relative_error < 1e-4


def test_fewer_bits_and_larger_groups_are_further_off() -> None:
    model = GRAPHS["residual"]()
    inputs = samples(model)
    (expected,) = run_graph(model, inputs)
    errors = [
        float(np.abs(run_graph(quantized(model, **step), inputs)[0] - expected).max())
        for step in ({"bits": 8}, {"bits": 4, "group": 8}, {"bits": 2, "group": 8}, {"bits": 1})
    ]
    assert errors == sorted(errors)


def test_four_bits_take_half_a_byte() -> None:
    model = GRAPHS["plain"]()
    eight, four = (
        sum(value.const_value.nbytes for value in stored(quantized(model, bits=bits)))
        for bits in (8, 4)
    )
    assert eight == sum(weight.array.size for weight in find_weights(model))
    assert four == eight / 2


@pytest.mark.parametrize("form", FORMS)
def test_zeros_of_pruning_stay_zero(form: str) -> None:
    model = GRAPHS["plain"]()
    model = prune_weights(model, PruneWeights(sparsity=0.6), context(model))
    zeros = sum(int((weight.array == 0).sum()) for weight in find_weights(model))
    counted = count_model(quantized(model, **FORMS[form]))
    assert counted.parameters - counted.nonzero_parameters >= zeros


def test_a_group_is_a_power_of_two_that_divides_its_row() -> None:
    """OpenVINO refuses others, or computes wrongly. 17 has no divisor that would pay."""
    b = GraphBuilder(20)
    x = b.dense(b.dense("x", 20, 17), 17, 5)
    result = quantized(b.build(x), bits=4, group=8)
    blocks = [
        node.attributes["block_size"].value if "block_size" in node.attributes else None
        for node in result.graph
        if node.op_type == "DequantizeLinear"
    ]
    assert blocks == [4, None]


def correlated() -> tuple[ir.Model, Dataset]:
    """Inputs that move together: what one weight loses, another can make good."""
    b = GraphBuilder(64)
    model = b.build(b.dense("x", 64, 5))
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 64)) + 0.1 * rng.normal(size=(200, 64))
    split = Split(inputs=(x.astype(np.float32),))
    return model, Dataset(source="test", train=split, test=split)


def test_with_data_rounding_makes_good_what_it_loses() -> None:
    model, data = correlated()
    (expected,) = run_graph(model, data.train.inputs)
    errors = {}
    for rounding in ("nearest", "gptq", None):
        step = QuantizeWeights(bits=4, rounding=rounding)
        (output,) = run_graph(apply(model, step, context(model, data)), data.train.inputs)
        errors[rounding] = float(np.square(output - expected).mean())
    assert errors["gptq"] < errors["nearest"] / 4
    assert errors[None] == errors["gptq"]


def test_compensation_keeps_pruned_weights_pruned() -> None:
    model, data = correlated()
    given = context(model, data)
    pruned = prune_weights(model, PruneWeights(sparsity=0.5), given)
    result = apply(pruned, QuantizeWeights(bits=4, rounding="gptq"), given)
    (codes,) = stored(result)
    (before,) = find_weights(pruned)
    assert codes.const_value is not None
    assert (
        not codes.const_value.numpy()
        .astype(int)
        .reshape(before.array.shape)[before.array == 0]
        .any()
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_compensated_rounding_takes_any_graph(name: str) -> None:
    model = GRAPHS[name]()
    given = context(model, small_dataset(model, 16))
    inputs = samples(model)
    (expected, *_), (output, *_) = (
        run_graph(each, inputs)
        for each in (model, apply(model, QuantizeWeights(bits=4, rounding="gptq"), given))
    )
    assert np.abs(output - expected).max() < 0.5 * np.abs(expected).max()


def test_compensated_rounding_needs_data() -> None:
    with pytest.raises(DataError, match="rounding gptq needs sample inputs"):
        quantized(GRAPHS["plain"](), bits=4, rounding="gptq")


def test_only_named_layers_are_quantized() -> None:
    model = GRAPHS["plain"]()
    first, *others = [weight.name for weight in find_weights(model)]
    result = quantized(model, bits=4, layers=[first])
    assert [weight.name for weight in find_weights(result)] == others
    assert len(stored(quantized(model, layers=["Conv"]))) == sum(
        weight.node.op_type == "Conv" for weight in find_weights(model)
    )


def test_a_name_that_matches_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="quantize_weights: layers: 'nowhere' matches no"):
        quantized(GRAPHS["plain"](), layers=["Conv", "nowhere"])


def test_embeddings_are_quantized_too() -> None:
    b = GraphBuilder(7)
    rows = b.op("Gather", b.weight(20, 6), b.op("Cast", "x", to=7))
    model = b.build(b.dense(b.op("ReduceMean", rows, axes=[1], keepdims=0), 6, 5))
    ids = [np.arange(14, dtype=np.float32).reshape(2, 7)]
    result = quantized(model, bits=8)
    np.testing.assert_allclose(run_graph(result, ids)[0], run_graph(model, ids)[0], atol=0.03)
    assert len(stored(result)) == 2


def test_older_models_are_brought_to_the_opset_that_blocks_need() -> None:
    model = GRAPHS["mobile"]()
    assert model.opset_imports[""] == 17
    assert quantized(model, bits=8).opset_imports[""] == 17
    assert quantized(model, bits=4).opset_imports[""] == 21


def test_a_quantized_model_has_nothing_left_to_quantize() -> None:
    with pytest.raises(ModelError, match="weights that are quantized already come too late"):
        quantized(quantized(GRAPHS["plain"](), bits=8), bits=4)


@pytest.mark.parametrize("step", [{"bits": 3}, {"group": 1}, {"bits": 1, "rounding": "gptq"}])
def test_refuses_what_it_cannot_do(step: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(step, QuantizeWeights)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_engine_computes_the_same(form: str) -> None:
    from trimtab.engine.module import run

    model = GRAPHS["plain"]()
    result = quantized(model, **FORMS[form])
    (x,) = small_dataset(model, 8).train.inputs
    np.testing.assert_allclose(run(result, [x])[0], run_graph(result, [x])[0], rtol=1e-4, atol=1e-5)
