"""Recurrent layers against ONNX Runtime: in the engine, and as TFLite files."""

from __future__ import annotations

import numpy as np
import pytest

from support.onnx_cases import engine_outputs, runtime_outputs
from support.recurrent import layer, samples
from trimtab.engine.operators.steps import UNROLLED_STEPS
from trimtab.errors import UnsupportedOperatorError

pytestmark = pytest.mark.slow

LAYERS = {
    "LSTM": ("LSTM", {}),
    "LSTM, backward": ("LSTM", {"direction": "reverse"}),
    "LSTM, both ways, with states": ("LSTM", {"direction": "bidirectional", "states": True}),
    "LSTM, both ways, of several lengths": (
        "LSTM", {"direction": "bidirectional", "lengths": [7, 3, 1]},
    ),
    "LSTM, peepholes": ("LSTM", {"peepholes": True, "states": True}),
    "LSTM, other activations": ("LSTM", {"activations": ["HardSigmoid", "Relu", "Softsign"]}),
    "GRU, reset before": ("GRU", {"states": True}),
    "GRU, reset after": ("GRU", {"linear_before_reset": 1}),
    "GRU, both ways, reset after": (
        "GRU", {"linear_before_reset": 1, "direction": "bidirectional", "states": True},
    ),
    "GRU, backward, of several lengths": ("GRU", {"direction": "reverse", "lengths": [2, 7, 5]}),
    "RNN": ("RNN", {"states": True}),
    "RNN, both ways": ("RNN", {"direction": "bidirectional", "activations": ["Relu", "Tanh"]}),
}  # fmt: skip

LONG = UNROLLED_STEPS + 6


@pytest.mark.parametrize("steps", [7, LONG])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_onnx_runtime(name, steps):
    operator, options = LAYERS[name]
    model = layer(operator, steps, **options)
    data = samples(model, steps, 3)
    for actual, wished in zip(
        engine_outputs(model, data), runtime_outputs(model, data), strict=True
    ):
        np.testing.assert_allclose(actual, wished, atol=2e-6, strict=True)


def test_sequence_of_free_length_equals_onnx_runtime():
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    model = layer("LSTM", "time", direction="bidirectional")
    module = GraphModule(model, trainable=True)
    specs = [tf.TensorSpec((None, None, 5))]
    function = tf.function(lambda x: module([x]), input_signature=specs, autograph=False)
    for steps in (3, 11):
        data = samples(model, steps, 4)
        for actual, wished in zip(function(*data), runtime_outputs(model, data), strict=True):
            np.testing.assert_allclose(actual, wished, atol=2e-6)


@pytest.mark.parametrize("steps", [7, LONG])
@pytest.mark.parametrize("name", [name for name in LAYERS if "lengths" not in LAYERS[name][1]])
def test_file_computes_what_the_layer_does(name, steps):
    from ai_edge_litert.interpreter import Interpreter

    from trimtab.engine.lower import to_tflite

    operator, options = LAYERS[name]
    model = layer(operator, steps, batch=1, **options)
    data = samples(model, steps, 1)
    runner = Interpreter(model_content=to_tflite(model)).get_signature_runner()
    names = [value.name for value in model.graph.inputs]
    outputs = runner(**dict(zip(names, data, strict=True)))
    for value, wished in zip(model.graph.outputs, runtime_outputs(model, data), strict=True):
        np.testing.assert_allclose(outputs[value.name], wished, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"clip": 1.0}, "LSTM with clipped gates"),
        ({"input_forget": 1}, "LSTM with coupled input and forget gates"),
        ({"activations": ["Affine", "Tanh", "Tanh"]}, "LSTM with activation Affine"),
    ],
)
def test_variants_of_no_framework_are_refused_by_name(options, what):
    model = layer("LSTM", 4, **options)
    with pytest.raises(UnsupportedOperatorError, match=what):
        engine_outputs(model, samples(model, 4, 2))
