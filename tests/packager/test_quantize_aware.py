"""Quantization-aware training: what it starts from, what comes out, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from support import architectures, graphs, quant_graphs
from support.techniques import context, samples, small_dataset
from trimtab.compress import quantize
from trimtab.compress.fake_quantized import train_form, weight_places
from trimtab.compress.quantize_aware import QuantizeAware, apply
from trimtab.compress.quantize_weights import BITS_KEY, QuantizeWeights
from trimtab.compress.quantize_weights import apply as quantize_weights
from trimtab.compress.quantized_storage import stored_form
from trimtab.compress.recipe import parse_recipe
from trimtab.compress.rehearsal import rehearse, untrained
from trimtab.engine.learned_scales import is_learned
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.access import constant, hold
from trimtab.graph.clean import clean
from trimtab.graph.opset import raise_opset
from trimtab.graph.run import run_graph
from trimtab_agent.errors import CallerError


def matmul_with_bias() -> ir.Model:
    b = quant_graphs.TrainedLike(20)
    x = b.op("Gelu", b.op("Add", b.op("MatMul", "x", b.weight(20, 16)), b.weight(16)))
    return b.build(b.op("MatMul", x, b.weight(16, 5)))


def only_recurrent() -> ir.Model:
    b = quant_graphs.TrainedLike(6, 4)
    x = b.op("Transpose", "x", perm=[1, 0, 2])
    weights = b.weight(1, 20, 4), b.weight(1, 20, 5), b.weight(1, 40)
    _, last, _ = b.ops("LSTM", x, *weights, outputs=3, hidden_size=5)
    return b.build(b.op("Squeeze", last, b.constant([0])))


def nothing_to_quantize() -> ir.Model:
    b = quant_graphs.TrainedLike(5)
    return b.build(b.op("Softmax", b.op("Sin", "x")))


def with_random_numbers() -> ir.Model:
    b = quant_graphs.TrainedLike(20)
    return b.build(b.op("Gemm", b.op("Bernoulli", "x"), b.weight(20, 5)))


MODELS: dict[str, Callable[[], ir.Model]] = {
    **quant_graphs.GRAPHS,
    "grouped": graphs.grouped,
    "transposed": graphs.encoder_decoder,
    "transformer": architectures.torch_encoder,
    "recurrent": architectures.stacked_recurrent,
    "only_recurrent": only_recurrent,
}


def quantized(model: ir.Model, **parameters: Any) -> ir.Model:
    """What the step makes of a model without its training."""
    step = QuantizeAware(epochs=0, calibration_samples=64, **parameters)
    return apply(model, step, context(model, small_dataset(model)))


def codes(model: ir.Model) -> dict[str, np.ndarray]:
    """The stored weights of layers, by the initializers' names."""
    writers = [place.value.producer() for place in weight_places(model.graph)]
    stored = [node.inputs[0] for node in writers if node and node.op_type == "DequantizeLinear"]
    return {str(value.name): constant(value) for value in stored}


def moved(form: ir.Model) -> ir.Model:
    """A graph as training may leave it: other weights, other scales."""
    result, random = form.clone(), np.random.default_rng(0)
    for value in result.graph.initializers.values():
        array = constant(value)
        assert array is not None
        if is_learned(value):
            array = array * random.uniform(0.8, 1.1, array.shape).astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
    return result


def form_of(model: ir.Model, bits: Any) -> ir.Model:
    start = quantize.apply(
        raise_opset(model, 21),
        quantize.QuantizeInt8(calibration_samples=64),
        context(model, small_dataset(model)),
    )
    return train_form(start, bits)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", MODELS)
def test_weights_become_integers_and_the_model_stays_what_it_was(name: str, bits: int) -> None:
    model = clean(MODELS[name]())
    result = quantized(model, weight_bits=bits)
    x = samples(model, 32)
    expected, actual = run_graph(model, x)[0], run_graph(result, x)[0]
    error = np.abs(expected - actual).mean() / np.abs(expected).mean()
    assert error < {8: 0.05, 4: 0.6}[bits]
    stored = codes(result)
    assert stored
    highest = {8: 127, 4: 7}[bits]
    for array in stored.values():
        assert array.dtype == {8: np.int8, 4: ml_dtypes.int4}[bits]
        assert np.abs(array.astype(np.int16)).max() == highest
    for place in weight_places(result.graph):
        fixed = constant(place.value)
        assert fixed is None or name == "transformer"


@pytest.mark.parametrize("name", ["residual", "depthwise", "transposed"])
def test_biases_are_int32_in_units_of_input_times_weight_scale(name: str) -> None:
    result = quantized(clean(MODELS[name]()))
    seen = 0
    for place in weight_places(result.graph):
        bias = place.node.inputs[2].producer()
        weight = place.value.producer()
        before = place.node.inputs[0].producer()
        assert constant(bias.inputs[0]).dtype == np.int32
        units = constant(before.inputs[1]) * constant(weight.inputs[1])
        np.testing.assert_allclose(constant(bias.inputs[1]), units, rtol=1e-6)
        seen += 1
    assert seen >= 3


def test_activations_are_uint8_pairs_and_inputs_stay_float() -> None:
    result = quantized(clean(quant_graphs.residual()))
    pairs = [node for node in result.graph if node.op_type == "QuantizeLinear"]
    assert pairs
    assert {constant(node.inputs[2]).dtype for node in pairs} == {np.dtype(np.uint8)}
    assert all(value.dtype == ir.DataType.FLOAT for value in result.graph.inputs)


def test_a_product_of_activations_has_no_weight_to_store() -> None:
    b = quant_graphs.TrainedLike(8, 12, 12)
    left = b.op("Reshape", b.conv("x", 8, 8), b.constant([0, 8, 144]))
    right = b.op("Transpose", left, perm=[0, 2, 1])
    attended = b.op("Reshape", b.op("MatMul", right, left), b.constant([0, 144, 12, 12]))
    model = clean(b.classifier(b.conv(attended, 144, 4), 4))
    form = form_of(model, 8)
    assert run_graph(stored_form(form), samples(model))


def test_a_tied_weight_stays_one() -> None:
    result = quantized(clean(quant_graphs.shared()))
    first, second = (place.value for place in weight_places(result.graph)[:2])
    assert first is second


def test_zeros_stay_zero_and_marks_go_along() -> None:
    model = clean(quant_graphs.residual())
    kernel = weight_places(model.graph)[0].value
    array = constant(kernel).copy()
    array[np.abs(array) < np.median(np.abs(array))] = 0
    kernel.const_value = ir.tensor(array, name=kernel.name)
    hold(kernel, "zeros")
    stored = weight_places(quantized(model).graph)[0].value.producer().inputs[0]
    assert stored.metadata_props["trimtab.hold"] == "zeros"
    assert (constant(stored)[array == 0] == 0).all()


def test_weights_that_share_values_have_one_scale_and_so_still_share_them() -> None:
    model = clean(quant_graphs.residual())
    kernel = weight_places(model.graph)[0].value
    values = np.linspace(-0.5, 0.5, 9, dtype=np.float32)
    array = values[np.random.default_rng(0).integers(0, 9, constant(kernel).shape)]
    kernel.const_value = ir.tensor(array, name=kernel.name)
    hold(kernel, "clusters")
    weight = weight_places(quantized(model).graph)[0].value.producer()
    assert constant(weight.inputs[1]).ndim == 0
    assert np.unique(constant(weight.inputs[0])).size == 9


def test_kept_layers_stay_float() -> None:
    model = clean(architectures.stacked_recurrent())
    result = quantized(model, keep_float=("LSTM",))
    kept = [p for p in weight_places(result.graph) if p.node.op_type == "LSTM"]
    assert len(kept) == 4
    assert all(constant(place.value) is not None for place in kept)


def test_a_graph_with_pairs_keeps_its_scales_and_codes() -> None:
    model = clean(quant_graphs.residual())
    surroundings = context(model, small_dataset(model))
    start = quantize.apply(model, quantize.QuantizeInt8(calibration_samples=64), surroundings)
    result = apply(start, QuantizeAware(epochs=0), surroundings)
    for before, after in zip(weight_places(start.graph), weight_places(result.graph), strict=True):
        for old, new in zip(
            before.value.producer().inputs, after.value.producer().inputs, strict=True
        ):
            np.testing.assert_array_equal(constant(old), constant(new))
    x = samples(model, 16)
    np.testing.assert_allclose(run_graph(start, x)[0], run_graph(result, x)[0], atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_recurrent_weights_have_the_form_that_openvino_takes(bits: Any, tmp_path) -> None:
    from trimtab.targets.export import export

    model = clean(architectures.stacked_recurrent())
    result = quantized(model, weight_bits=bits)
    exported = export(result, "openvino", tmp_path, samples=tuple(samples(model, 8)))
    assert exported.comparison.cosine > 0.999
    again = apply(result, QuantizeAware(epochs=0), context(model, small_dataset(model)))
    for before, after in zip(weight_places(result.graph), weight_places(again.graph), strict=True):
        stored = (place.value.producer() for place in (before, after))
        for old, new in zip(*(node.inputs for node in stored), strict=True):
            np.testing.assert_allclose(constant(old), constant(new), rtol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_stored_weights_without_pairs_are_a_start_too(bits: Any) -> None:
    model = clean(quant_graphs.residual())
    surroundings = context(model, small_dataset(model))
    start = quantize_weights(model, QuantizeWeights(bits=bits, group=8), surroundings)
    result = apply(start, QuantizeAware(epochs=0, weight_bits=bits), surroundings)
    x = samples(model, 16)
    before, after = run_graph(start, x)[0], run_graph(result, x)[0]
    assert np.abs(before - after).mean() < {8: 0.03, 4: 0.4}[bits] * np.abs(before).mean()
    assert {node.op_type for node in result.graph}.isdisjoint({"QuantizeLinear", "Reshape"})


@pytest.mark.parametrize(
    ("bits", "stored"), [(8, np.int8), (4, ml_dtypes.int4), (2, ml_dtypes.int4)]
)
def test_a_quantized_weight_keeps_its_bits(bits: Any, stored: Any) -> None:
    model = clean(quant_graphs.residual())
    surroundings = context(model, small_dataset(model))
    first = quantize.apply(model, quantize.QuantizeInt8(keep_float=("Conv",)), surroundings)
    start = quantize_weights(first, QuantizeWeights(bits=bits), surroundings)
    result = apply(start, QuantizeAware(epochs=0), surroundings)
    kinds = Counter(array.dtype for array in codes(result).values())
    assert kinds[np.dtype(stored)] >= 3
    if bits == 2:
        x = samples(model, 16)
        np.testing.assert_allclose(run_graph(start, x)[0], run_graph(result, x)[0], atol=1e-4)


def test_permission_to_round_activations_goes_along() -> None:
    model = clean(quant_graphs.residual())
    surroundings = context(model, small_dataset(model))
    start = quantize_weights(model, QuantizeWeights(), surroundings)
    for place in weight_places(start.graph):
        place.value.producer().metadata_props["trimtab.activations"] = "dynamic"
    result = apply(start, QuantizeAware(epochs=0), surroundings)
    for place in weight_places(result.graph):
        assert place.value.producer().metadata_props["trimtab.activations"] == "dynamic"


@pytest.mark.parametrize("name", ["residual", "depthwise", "transposed", "perceptron"])
def test_training_begins_with_what_quantize_int8_gives(name: str) -> None:
    model = clean(MODELS[name]())
    surroundings = context(model, small_dataset(model))
    after = quantize.apply(model, quantize.QuantizeInt8(calibration_samples=64), surroundings)
    begun, x = quantized(model), samples(model, 16)
    np.testing.assert_allclose(run_graph(begun, x)[0], run_graph(after, x)[0], atol=1e-5)


def test_float_layers_between_codes_stay_shielded() -> None:
    """Where ONNX Runtime would quantize them by itself; see `float_islands`."""
    model = clean(quant_graphs.residual())
    kept = weight_places(model.graph)[1].node.name
    result = quantized(model, keep_float=(kept,))
    layer = next(node for node in result.graph if node.name == kept)
    assert constant(layer.inputs[1]) is not None
    assert layer.inputs[2].producer().op_type == "DequantizeLinear"


def test_four_bits_say_so() -> None:
    result = quantized(clean(quant_graphs.residual()), weight_bits=4)
    marks = {name: result.graph.initializers[name].metadata_props for name in codes(result)}
    assert all(mark[BITS_KEY] == "4" for mark in marks.values())


def test_a_dead_channel_keeps_its_bias() -> None:
    """Its scale grows until the bias fits an int32; the other channels' do not."""
    model = clean(quant_graphs.residual())
    place = weight_places(model.graph)[0]
    for value, change in ((place.value, 1e-12), (place.node.inputs[2], None)):
        array = constant(value).copy()
        array[1] = array[1] * change if change else 3.0
        value.const_value = ir.tensor(array, name=value.name)
    x = samples(model, 16)
    for bits in (8, 4):
        result = quantized(model, weight_bits=bits)
        expected, actual = run_graph(model, x)[0], run_graph(result, x)[0]
        assert np.abs(expected - actual).mean() < 0.5 * np.abs(expected).mean()


BAD: dict[str, tuple[Callable[[], ir.Model], dict[str, Any], type[CallerError], str]] = {
    "nothing to quantize": (
        nothing_to_quantize,
        {},
        ModelError,
        r"quantize_aware: the model has nothing to quantize \(it has Sin, Softmax\)",
    ),
    "everything kept float": (
        quant_graphs.perceptron,
        {"keep_float": ("*",)},
        ModelError,
        "nothing to quantize",
    ),
    "a pattern that matches nothing": (
        quant_graphs.perceptron,
        {"keep_float": ("conv_9",)},
        RecipeError,
        "'conv_9' matches no node, weight or operator",
    ),
    "an operator that the engine lacks": (
        with_random_numbers,
        {},
        CallerError,
        r"the training engine does not know these operators: Bernoulli \(1x\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case: str) -> None:
    make, parameters, error, message = BAD[case]
    model = make()
    data = small_dataset(clean(quant_graphs.perceptron()))
    with pytest.raises(error, match=message):
        apply(model, QuantizeAware(**parameters), context(model, data))


def test_what_cannot_be_trained_is_refused_before_anything_else() -> None:
    model = clean(quant_graphs.perceptron())
    with pytest.raises(DataError, match="quantize_aware needs data: give --data"):
        apply(model, QuantizeAware(), context(model))
    data = small_dataset(model)
    fixed = model.clone()
    fixed.graph.inputs[0].shape = ir.Shape([1, 20])
    with pytest.raises(ModelError, match="fixed batch of 1"):
        apply(fixed, QuantizeAware(), context(model, data))
    one = Split(inputs=(data.train.take(np.arange(1))[0],), labels=None)
    with pytest.raises(DataError, match="got 1"):
        apply(model, QuantizeAware(), context(model, replace(data, train=one)))


def test_float_layers_are_named_where_the_model_is_quantized() -> None:
    model = clean(quant_graphs.perceptron())
    surroundings = context(model, small_dataset(model))
    start = quantize.apply(model, quantize.QuantizeInt8(), surroundings)
    with pytest.raises(RecipeError, match="give it to the step that quantizes"):
        apply(start, QuantizeAware(keep_float=("Gemm",)), surroundings)


def test_stored_tables_alone_are_nothing_to_train() -> None:
    b = graphs.GraphBuilder(3)
    rows = b.op("Cast", "x", to=7)
    model = clean(b.build(b.op("ReduceMean", b.op("Gather", b.weight(9, 5), rows), axes=[1])))
    surroundings = context(model, small_dataset(model))
    start = quantize_weights(model, QuantizeWeights(), surroundings)
    with pytest.raises(ModelError, match="no layer of the quantized model"):
        apply(start, QuantizeAware(), surroundings)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"weight_bits": 3}, r"quantize_aware\.weight_bits"),
        ({"epochs": -1}, r"quantize_aware\.epochs"),
        ({"calibration_samples": 0}, r"quantize_aware\.calibration_samples"),
        ({"bits": 4}, "unknown parameter `bits`; did you mean `weight_bits`"),
        ({"weight_decay": 0.1}, "`adam` has no `weight_decay`"),
    ],
)
def test_recipes_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"steps": [{"quantize_aware": parameters}]}, "test")


def test_a_recipe_is_rehearsed_without_training() -> None:
    model = clean(quant_graphs.perceptron())
    surroundings = context(model, small_dataset(model))
    steps = parse_recipe(
        {"steps": [{"quantize_aware": {"epochs": 900}}, {"prune_channels": {"macs": 0.5}}]}, "test"
    ).steps
    assert untrained(steps[0]).parameters.epochs == 0  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="put the step before the quantization"):
        rehearse(model, steps, surroundings)
    with pytest.raises(DataError, match=r"\$\.steps\[0\]\.quantize_aware needs data"):
        rehearse(model, steps, context(model))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["residual", "depthwise", "transposed", "perceptron"])
def test_the_stored_graph_gives_what_was_trained(name: str, bits: int) -> None:
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    model = clean(MODELS[name]())
    form = moved(form_of(model, bits))
    x = samples(model, 32)
    trained = GraphModule(form, trainable=True)([tf.constant(array) for array in x])[0].numpy()
    stored = run_graph(stored_form(form), x)[0]
    steps = np.abs(trained - stored) / (trained.max() - trained.min()) * 255
    # Sums in another order may fall to the other side of a half; such a step may move the next.
    assert steps.max() < 6
    assert steps.mean() < 0.5


def patterns(count: int, seed: int, labelled: bool = True) -> Split:
    kinds = np.random.default_rng(99).normal(size=(5, 3, 8, 8)).astype(np.float32)
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, count)
    x = kinds[labels] + 1.5 * random.normal(size=(count, 3, 8, 8)).astype(np.float32)
    return Split(inputs=(x.astype(np.float32),), labels=labels if labelled else None)


def network() -> ir.Model:
    b = quant_graphs.TrainedLike(3, 8, 8)
    x = b.conv_relu(b.conv_relu(b.conv_relu("x", 3, 8), 8, 8, group=8), 8, 8)
    return clean(b.classifier(x, 8))


def distance(model: ir.Model, other: ir.Model, x: np.ndarray) -> float:
    return float(np.square(run_graph(model, [x])[0] - run_graph(other, [x])[0]).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bits"), [("conv", 8), ("conv", 4), ("recurrent", 4), ("transformer", 4)]
)
def test_training_brings_back_what_rounding_took(name: str, bits: Any) -> None:
    make = {"conv": network, **{k: MODELS[k] for k in ("recurrent", "transformer")}}[name]
    model = clean(make())
    data = small_dataset(model, 400)
    data = replace(data, train=Split(inputs=data.train.inputs, labels=None))
    rate = {8: 3e-4, 4: 2e-3}[bits]
    step = QuantizeAware(epochs=6, batch_size=16, weight_bits=bits, learning_rate=rate)
    surroundings = context(model, data)
    before = apply(model, replace_epochs(step, 0), surroundings)
    after = apply(model, step, surroundings)
    x = np.random.default_rng(8).normal(size=data.train.inputs[0].shape).astype(np.float32)
    first, last = distance(model, before, x), distance(model, after, x)
    # In 8 bits next to nothing was lost; what is kept is at least no worse.
    assert last < {8: 1.01, 4: 0.6}[bits] * first


def replace_epochs(step: QuantizeAware, epochs: int) -> QuantizeAware:
    import msgspec

    return msgspec.structs.replace(step, epochs=epochs)


@pytest.mark.slow
def test_same_seed_same_bytes_and_the_input_is_left_alone() -> None:
    model = network()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    data = Dataset(source="patterns", train=patterns(200, 0), test=patterns(50, 1))
    step = QuantizeAware(epochs=2, batch_size=32)
    first, again = (
        ir.to_proto(apply(model, step, context(model, data))).SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == again
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.slow
def test_an_interrupt_leaves_a_stored_graph() -> None:
    model = network()
    data = Dataset(source="patterns", train=patterns(200, 0), test=patterns(50, 1))

    def interrupt(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    surroundings = context(model, data, interrupt)
    with pytest.raises(KeyboardInterrupt):
        apply(model, QuantizeAware(epochs=9, weight_bits=4), surroundings)
    kept = surroundings.kept.model
    assert kept is not None
    assert codes(kept)
    assert Counter(node.op_type for node in kept.graph)["Conv"] == 3


@pytest.mark.slow
def test_training_keeps_zeros_and_shared_values() -> None:
    model = network()
    pruned, shared = (place.value for place in weight_places(model.graph)[:3:2])
    array = constant(pruned).copy()
    array[np.abs(array) < np.median(np.abs(array))] = 0
    pruned.const_value = ir.tensor(array, name=pruned.name)
    hold(pruned, "zeros")
    values = np.linspace(-0.5, 0.5, 7, dtype=np.float32)
    spread = values[np.random.default_rng(0).integers(0, 7, constant(shared).shape)]
    shared.const_value = ir.tensor(spread, name=shared.name)
    hold(shared, "clusters")
    data = Dataset(source="patterns", train=patterns(200, 0), test=patterns(50, 1))
    step = QuantizeAware(epochs=2, batch_size=32, learning_rate=3e-3)
    result = apply(model, step, context(model, data))
    first, _, third = [p.value.producer().inputs[0] for p in weight_places(result.graph)[:3]]
    assert (constant(first)[array == 0] == 0).all()
    assert np.unique(constant(third)).size <= 7


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tflite"])
def test_trained_graphs_pass_the_gate(target: Any, bits: int, tmp_path) -> None:
    from trimtab.targets.export import export

    model = clean(MODELS["residual"]())
    form = moved(form_of(model, bits))
    exported = export(stored_form(form), target, tmp_path, samples=tuple(samples(model, 32)))
    assert exported.comparison.cosine > 0.99
