"""Every layer of Keras 3 that edge models use comes out computing what Keras computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.keras_layers import NAMES, make, samples
from trimtab.errors import ModelError, UnsupportedOperatorError
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def tensorflow():
    from trimtab.tensorflow_setup import import_tensorflow

    import_tensorflow()


def operators(graph: ir.Model) -> set[str]:
    return {node.op_type for node in graph.graph}


@pytest.mark.parametrize("name", NAMES)
def test_layer_computes_what_keras_does(name, tmp_path):
    model = make(name)
    model.save(tmp_path / "a.keras")
    graph, data = load_model(tmp_path / "a.keras"), samples(model)
    expected = model(data, training=False)
    expected = expected if isinstance(expected, (list, tuple)) else [expected]
    for actual, wanted in zip(run_graph(graph, [data]), map(np.asarray, expected), strict=True):
        assert actual.shape == wanted.shape
        tolerance = 1e-5 * max(np.abs(wanted).max(), 1e-6)
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance)
    if name not in ("gru_mask", "lstm_mask", "masking", "convlstm1d", "rnn_cells"):
        assert "Loop" not in operators(graph)


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


def test_layer_that_keeps_its_state_is_refused(tmp_path):
    import keras

    layer = keras.layers.LSTM(3, stateful=True, name="memory")
    keras.Sequential([keras.Input((7, 4), batch_size=1), layer]).save(tmp_path / "a.keras")
    with pytest.raises(ModelError, match="layer 'memory' keeps its state between calls"):
        load_model(tmp_path / "a.keras")


def test_operators_that_onnx_lacks_are_named(tmp_path):
    import keras

    layer = keras.layers.MelSpectrogram(fft_length=256, sequence_stride=128, num_mel_bins=8)
    keras.Sequential([keras.Input((1024,)), layer]).save(tmp_path / "a.keras")
    with pytest.raises(
        UnsupportedOperatorError, match=r"TensorFlow operators that ONNX lacks: .*RFFT"
    ):
        load_model(tmp_path / "a.keras")
