"""Networks as strangers export them: found, pruned exactly, counted, and explained where kept."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.architectures import ARCHITECTURES, WIDTH
from support.pruning import assert_prunes_exactly, channels, inputs_for, outputs
from trimtab.graph.clean import clean
from trimtab.graph.count import count_model
from trimtab.graph.dependencies import analyse, remove_channels
from trimtab.graph.dependencies.cost import Cost, mac_terms, parameter_terms

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("torch_attention", [36, 12]),
        ("torch_attention_of_any_length", [36, 12]),
        ("torch_encoder", [36, 16]),
        ("bert", [12, 16]),
        ("grouped_queries", [12, 12]),
        ("masked_by_ones", [12, 12]),
        ("vision_transformer", [36]),
        ("shifted_windows", [36]),
        ("unfolded_patches", [12, 10, 12, 8]),
        ("shuffled_with_sizes", [6, 6, 8]),
        ("stacked_recurrent", [8, 6]),
        ("text_reader", [6, 8]),
        ("dense_over_time", [12, 8]),
        ("ghost_features", [12]),
        ("detector", [8, 8, 4, 4, 10, 10]),
        ("twins", [8, 10]),
        ("causal_convolutions", [12, 8, 8]),
        ("mixer", [10, 16]),
        ("convnext", [16]),
        ("group_normalised", [12, 8]),
        ("autoencoder", [8, 10, 96]),
        ("conformer", [36, 16]),
        ("position_convolution", [12, 10, 12]),
    ],
)
def test_finds_every_group(name: str, sizes: list[int]) -> None:
    model = clean(ARCHITECTURES[name]())
    assert channels(model) == sizes
    assert analyse(model).opaque_operators == ()


@every_architecture
def test_cleaning_keeps_the_outputs(name: str) -> None:
    model = ARCHITECTURES[name]()
    expected = outputs(model)
    np.testing.assert_allclose(
        outputs(clean(model)), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@every_architecture
def test_a_second_cleaning_changes_nothing(name: str) -> None:
    cleaned = clean(ARCHITECTURES[name]())
    again = clean(cleaned)
    one, other = (
        ir.to_proto(model).SerializeToString(deterministic=True) for model in (cleaned, again)
    )
    assert one == other


@every_architecture
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_pruned_equals_masked(name: str, share: float) -> None:
    assert_prunes_exactly(clean(ARCHITECTURES[name]()), share=share)


@every_architecture
def test_costs_are_those_of_the_pruned_graph(name: str) -> None:
    model = clean(ARCHITECTURES[name]())
    found = analyse(model)
    dropped = [c for group in found.groups for c in group.classes[: len(group.classes) // 2]]
    pruned = count_model(remove_channels(model, found, dropped))
    assert Cost(found, mac_terms(model)).of(dropped) == pytest.approx(pruned.macs)
    assert Cost(found, parameter_terms(model)).of(dropped) == pytest.approx(pruned.parameters)
    assert pruned.macs < 0.9 * count_model(model).macs
    assert not pruned.uncounted


@every_architecture
def test_every_layer_is_prunable_or_says_why_not(name: str) -> None:
    model = clean(ARCHITECTURES[name]())
    found = analyse(model)
    kept = {each.name for each in found.kept}
    free = {axis[0] for axis in found.axes}
    assert all(each.cause for each in found.kept)
    assert found.kernels <= kept | free


@pytest.mark.parametrize(
    ("name", "kernel", "cause"),
    [
        ("bert", "Gather_8.data", "LayerNormalization_11 normalises them together"),
        ("bert", "Gemm_43.weight", "they are an output of the model"),
        ("shifted_windows", "MatMul_21.weight", r"Add_29 (Add) ties them to what is kept"),
    ],
)
def test_says_why_channels_are_kept(name: str, kernel: str, cause: str) -> None:
    kept = {each.name: each.cause for each in analyse(clean(ARCHITECTURES[name]())).kept}
    assert kept[kernel] == cause


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("torch_attention", {"Shape", "Concat"}),
        ("bert", {"Concat"}),
        ("stacked_recurrent", {"ConstantOfShape", "Shape"}),
        ("dense_over_time", {"Reshape", "Shape"}),
        ("masked_by_ones", {"Expand", "Shape"}),
        ("shuffled_with_sizes", {"Shape", "Div"}),
    ],
)
def test_shapes_are_worked_out(name: str, gone: set[str]) -> None:
    assert not gone & {node.op_type for node in clean(ARCHITECTURES[name]()).graph}


@pytest.mark.slow
@every_architecture
def test_the_engine_computes_what_the_runtime_does(name: str) -> None:
    from trimtab.engine.module import GraphModule

    model = clean(ARCHITECTURES[name]())
    expected = outputs(model)
    actual = np.asarray(GraphModule(model)(inputs_for(model))[0])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["torch_encoder", "bert", "vision_transformer", "convnext"])
def test_the_width_of_a_residual_stream_goes_when_asked_for(name: str) -> None:
    model = clean(ARCHITECTURES[name]())
    found = analyse(model, across_norms=True)
    stream = max(found.groups, key=lambda group: len(group.axes))
    assert len(stream.classes) == WIDTH
    pruned = remove_channels(model, found, stream.classes[:5])
    norms = [node for node in pruned.graph if node.op_type == "LayerNormalization"]
    assert norms
    assert all(node.inputs[1].shape == [WIDTH - 5] for node in norms)
    assert outputs(pruned).shape == outputs(model).shape
    assert count_model(pruned).parameters < 0.8 * count_model(model).parameters


def keras_attention(layers, x):
    y = layers.MultiHeadAttention(4, 4)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    y = layers.Dense(16)(layers.Dense(24, activation="gelu")(x))
    return layers.LayerNormalization()(layers.Add()([x, y]))


def keras_model(name: str):
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(1)
    if name == "words":
        x = given = keras.Input((12,), dtype="int32")
        x = keras_attention(layers, layers.Embedding(40, 16, mask_zero=True)(x))
    elif name == "any_length":
        x = given = keras.Input((None, 6))
        x = keras_attention(layers, layers.Dense(16)(x))
    elif name == "grouped_queries":
        x = given = keras.Input((10, 6))
        x = layers.GroupQueryAttention(4, 4, 2)(layers.Dense(16)(x), layers.Dense(16)(x))
    else:
        given = keras.Input((16, 16, 1))
        x = layers.Conv2D(8, 3, 4, "same", activation="relu")(given)
        x = layers.Reshape((4, 32))(layers.Permute((2, 1, 3))(x))
        x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x)
        x = layers.Dense(12, activation="relu")(x)
    return keras.Model(given, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("words", [16, 24]),
        ("any_length", [16, 24]),
        ("grouped_queries", [16, 8, 16, 16]),
        ("columns", [8, 8, 12]),
    ],
)
def test_networks_of_keras(name: str, sizes: list[int]) -> None:
    from trimtab.graph.keras_import import convert_keras

    model = clean(convert_keras(keras_model(name), "test"))
    assert channels(model) == sizes
    assert_prunes_exactly(model)
