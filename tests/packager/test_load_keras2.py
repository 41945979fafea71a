"""Whole models that Keras 2 itself wrote: what Keras 3 reads, and what only tf-keras does."""

from __future__ import annotations

import os

import numpy as np
import pytest

from support.extras import extra
from trimtab.errors import ModelError
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf_keras = extra("tf_keras")
L = tf_keras.layers

pytestmark = [
    pytest.mark.slow,
    # Keras 2 is no longer changed; TensorFlow and h5py warn of what it does.
    pytest.mark.filterwarnings("ignore"),
]


def stack(shape, *layers):
    return tf_keras.Sequential([L.InputLayer(input_shape=shape), *layers])


def never_called():
    model = tf_keras.Sequential([L.Dense(4, activation="relu"), L.Dense(2)])
    model.build((None, 5))
    return model


def with_operators():
    import tensorflow as tf

    x = L.Input((7, 8))
    y = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x))
    return tf_keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(tf.nn.gelu(y))))


def several_outputs():
    x = L.Input((8, 8, 3))
    y = L.Conv2D(4, 3, padding="same")(x)
    return tf_keras.Model(x, [L.Conv2DTranspose(2, 3, strides=2, padding="same")(y), y])


MODELS = {
    "pictures": lambda: stack(
        (8, 8, 3),
        L.Conv2D(4, 3),
        L.BatchNormalization(),
        L.DepthwiseConv2D(3),
        L.ReLU(6.0),
        L.SeparableConv2D(5, 3),
        L.Flatten(),
        L.Dense(3, activation="softmax"),
    ),
    "never_called": never_called,
    "recurrent": lambda: stack(
        (7, 4), L.LSTM(5, time_major=False, return_sequences=True), L.GRU(4, reset_after=False)
    ),
    "masked": lambda: stack(
        (7, 4), L.Masking(), L.LSTM(5, return_sequences=True), L.Bidirectional(L.GRU(3))
    ),
    "preprocessing": lambda: stack(
        (16, 16, 3), L.Rescaling(1 / 255.0), L.RandomFlip(), L.Conv2D(4, 3, activation="swish")
    ),
    "leaky": lambda: stack((6,), L.Dense(4), L.LeakyReLU(alpha=0.2), L.Dropout(0.5)),
    "sequence": lambda: stack(
        (7, 4), L.Conv1D(4, 3, padding="causal"), L.TimeDistributed(L.Dense(3)), L.SimpleRNN(4)
    ),
    "several_outputs": several_outputs,
    "removed_layer": lambda: stack((6,), L.Dense(4), L.ThresholdedReLU(theta=0.1)),
    "with_operators": with_operators,
    "slash_in_name": lambda: stack((8, 8, 3), L.Conv2D(4, 3, name="block/conv")),
}
NEED_KERAS_2 = ("removed_layer", "with_operators")


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize("name", MODELS)
def test_model_of_keras_2_computes_what_it_did(name, ending, tmp_path):
    tf_keras.utils.set_random_seed(0)
    model = MODELS[name]()
    data = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype(np.float32)
    expected = model(data, training=False)
    model.save(tmp_path / f"a.{ending}")
    expected = expected if isinstance(expected, (list, tuple)) else [expected]
    found = run_graph(load_model(tmp_path / f"a.{ending}"), [data])
    for actual, wanted in zip(found, map(np.asarray, expected), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NEED_KERAS_2)
def test_what_keras_3_cannot_read_points_to_keras_2(name, tmp_path, monkeypatch):
    MODELS[name]().save(tmp_path / "a.h5")
    monkeypatch.setattr("trimtab.graph.keras_legacy.find_spec", lambda _: None)
    with pytest.raises(
        ModelError, match=r"was written by Keras 2.*pip install --no-deps tf-keras=="
    ):
        load_model(tmp_path / "a.h5")


class Own(L.Layer):
    def call(self, inputs):
        return inputs * 2


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: L.Lambda(lambda x: x * 2, name="twice"), r"has Lambda layers \(twice\): Python"),
        (Own, r"has layers of classes that are not Keras' \(Own\): Python code"),
    ],
)
def test_code_in_a_file_is_never_run(layer, message, tmp_path):
    stack((5,), L.Dense(2), layer()).save(tmp_path / "a.h5")
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "a.h5")


def test_layer_that_keeps_its_state_hands_it_on(tmp_path):
    model = tf_keras.Sequential([L.Input((7, 4), batch_size=1), L.LSTM(3, stateful=True)])
    model.save(tmp_path / "a.h5")
    graph = load_model(tmp_path / "a.h5")
    states = [np.zeros((1, 3), np.float32)] * 2
    for step in np.random.default_rng(0).normal(size=(3, 1, 7, 4)).astype(np.float32):
        found, *states = run_graph(graph, [step, *states])
        np.testing.assert_allclose(found, np.asarray(model(step)), rtol=1e-5, atol=1e-6)
