"""Every layer of Keras 3 that edge models use comes out computing what Keras computes."""

from __future__ import annotations

import inspect
import re

import numpy as np
import onnx_ir as ir
import pytest

from support import keras_layers, keras_rare_layers
from support.keras_layers import NAMES, make, samples, with_weights
from support.keras_rare_layers import MASKED, MODELS
from trimtab.errors import UnsupportedOperatorError
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph

pytestmark = pytest.mark.slow

LEFT_OUT = {
    **dict.fromkeys(("Layer", "Wrapper", "InputSpec", "Lambda"), "no layer of their own"),
    **dict.fromkeys(("FlaxLayer", "JaxLayer", "TorchModuleWrapper", "TFSMLayer"), "other code"),
    **dict.fromkeys(("Hashing", "HashedCrossing"), "hash text, which no device runtime does"),
    **dict.fromkeys(("StringLookup", "IntegerLookup", "TextVectorization"), "tables of text"),
    **dict.fromkeys(("MixUp", "CutMix", "AugMix", "RandAugment"), "act in training alone"),
    "Equalization": "Keras 3.15 cannot put it into a functional model",
    "RandomShear": "Keras 3.15 cannot read it back",
    "MaxNumBoundingBoxes": "of boxes beside the pictures",
}
"""Layers that are not tried, and why."""


@pytest.fixture(autouse=True)
def tensorflow():
    from trimtab.tensorflow_setup import import_tensorflow

    import_tensorflow()


def operators(graph: ir.Model) -> set[str]:
    return {node.op_type for node in graph.graph}


def assert_same(model, data: np.ndarray, tmp_path) -> ir.Model:
    """Loads a model that was saved, and compares all outputs with what Keras computes."""
    model.save(tmp_path / "a.keras")
    graph = load_model(tmp_path / "a.keras")
    expected = model(data, training=False)
    expected = expected if isinstance(expected, (list, tuple)) else [expected]
    for actual, wanted in zip(run_graph(graph, [data]), map(np.asarray, expected), strict=True):
        assert actual.shape == wanted.shape
        tolerance = 1e-5 * max(np.abs(wanted).max(), 1e-6)
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance)
    assert "Loop" not in operators(graph)
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_layer_computes_what_keras_does(name, tmp_path):
    model = make(name)
    assert_same(model, samples(model), tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_rare_layer_computes_what_keras_does(name, tmp_path):
    import keras

    model = with_weights(MODELS[name](keras))
    assert_same(model, samples(model).astype(model.inputs[0].dtype), tmp_path)


@pytest.mark.parametrize("name", [name for name in MASKED if name.startswith("masked")])
def test_masks_with_gaps_are_those_of_keras(name, tmp_path):
    """Hidden steps at the start, in the middle, at the end, and all of them."""
    import keras

    model = with_weights(MODELS[name](keras))
    data = np.random.default_rng(0).normal(size=(5, 7, 4)).astype(np.float32)
    data[0, 0] = data[1, 3] = data[2, -1] = data[3, [0, 2, 3, 6]] = data[4] = 0
    graph = assert_same(model, data, tmp_path)
    found = [node.op_type for node in graph.graph]
    assert sum(kind in ("GRU", "LSTM", "RNN") for kind in found) <= 2


def test_every_layer_of_keras_is_tried_or_left_out_for_a_reason():
    import keras

    public = {name for name in dir(keras.layers) if name[0].isupper()}
    first = {vars(keras.layers)[name] for name in public - set(LEFT_OUT)}
    tables = "".join(inspect.getsource(module) for module in (keras_layers, keras_rare_layers))
    tried = set(re.findall(r"\bL\.(\w+)", tables)) | {"Activation", "InputLayer", "Input"}
    tried = {vars(keras.layers)[name] for name in tried}  # AvgPool1D is AveragePooling1D
    assert sorted(cls.__name__ for cls in first - tried) == []


@pytest.mark.parametrize("name", ["gru", "gru_seq", "gru_unroll", "lstm", "simple_rnn", "bi_lstm"])
def test_recurrent_layer_is_one_operator(name, tmp_path):
    make(name).save(tmp_path / "a.keras")
    graph = load_model(tmp_path / "a.keras")
    assert operators(graph) <= {"GRU", "LSTM", "RNN", "Transpose", "Squeeze", "Concat"}
    assert any(
        initializer.endswith(".recurrent_weight") for initializer in graph.graph.initializers
    )


def test_layers_trace_as_before_once_a_model_is_loaded(tmp_path):
    import keras

    before = keras.layers.GRU.inner_loop, keras.layers.SimpleRNN.inner_loop
    make("gru").save(tmp_path / "a.keras")
    load_model(tmp_path / "a.keras")
    assert (keras.layers.GRU.inner_loop, keras.layers.SimpleRNN.inner_loop) == before


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN", "Bidirectional"])
def test_layer_that_keeps_its_state_hands_it_on(kind, tmp_path):
    import keras

    inner = keras.layers.GRU(3, stateful=True)
    both = kind == "Bidirectional"
    layer = (
        keras.layers.Bidirectional(inner)
        if both
        else getattr(keras.layers, kind)(3, stateful=True, name="memory")
    )
    model = keras.Sequential([keras.Input((7, 4), batch_size=1), layer])
    model.save(tmp_path / "a.keras")
    graph = load_model(tmp_path / "a.keras")
    count = 2 if kind in ("LSTM", "Bidirectional") else 1
    names = [value.name for value in graph.graph.inputs[1:]]
    assert len(names) == count
    assert [value.name for value in graph.graph.outputs[1:]] == [f"{name}_next" for name in names]
    states = [np.zeros((1, 3), np.float32)] * count
    for step in np.random.default_rng(0).normal(size=(3, 1, 7, 4)).astype(np.float32):
        found, *states = run_graph(graph, [step, *states])
        np.testing.assert_allclose(found, np.asarray(model(step)), rtol=1e-5, atol=1e-6)


def test_operators_that_onnx_lacks_are_named(tmp_path):
    import keras

    layer = keras.layers.Hashing(4)
    keras.Sequential([keras.Input((1,), dtype="int32"), layer]).save(tmp_path / "a.keras")
    with pytest.raises(UnsupportedOperatorError, match=r"ONNX lacks: StringToHashBucketFast"):
        load_model(tmp_path / "a.keras")
