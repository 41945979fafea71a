"""Keras layers that must be traced differently so that they convert.

Keras traces a recurrent layer as a TensorFlow loop, which comes out of tf2onnx as an ONNX Loop
that no runtime is fast at and no technique can look into. Here the loop is replaced, while a
model is traced, by one marker operator that carries the weights in ONNX's order;
`tensorflow_handlers` writes the ONNX operator for it. A layer that ONNX's operators cannot
express (masked steps, another activation) is left to trace as Keras does it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

MARKER = "trimtab recurrent layer"

_ACTIVATIONS: dict[str, tuple[str, float | None, float | None]] = {
    "tanh": ("Tanh", None, None),
    "sigmoid": ("Sigmoid", None, None),
    "relu": ("Relu", None, None),
    "softsign": ("Softsign", None, None),
    "softplus": ("Softplus", None, None),
    # Keras 3: relu6(x + 3) / 6.
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "linear": ("Affine", 1.0, 0.0),
}
"""Keras' activation to ONNX's with its alpha and beta, as GRU, LSTM and RNN know them."""

_LSTM_ORDER = (0, 3, 1, 2)
"""ONNX stacks the gates input, output, forget, cell; Keras input, forget, cell, output."""

_Original = Callable[..., Any]


@contextmanager
def exportable_layers() -> Iterator[None]:
    """Replaces what must be traced differently, for as long as the context lasts."""
    from keras import layers
    from keras.src.layers.convolutional.base_conv import BaseConv

    changes: list[tuple[type, str, _Original]] = [
        (layers.GRU, "inner_loop", _recurrent("GRU")),
        (layers.LSTM, "inner_loop", _recurrent("LSTM")),
        (layers.SimpleRNN, "inner_loop", _recurrent("RNN")),
        (BaseConv, "convolution_op", _convolution),
    ]
    own = [(cls, name, cls.__dict__.get(name)) for cls, name, _ in changes]
    for cls, name, replacement in changes:
        setattr(cls, name, replacement)
    try:
        yield
    finally:
        for cls, name, original in own:
            if original is None:
                delattr(cls, name)
            else:
                setattr(cls, name, original)


def _convolution(layer: Any, inputs: Any, kernel: Any) -> Any:
    """A convolution without the XLA function that Keras wraps a grouped one in on a CPU."""
    import tensorflow as tf

    last = layer.data_format == "channels_last"
    return tf.nn.convolution(
        inputs,
        tf.convert_to_tensor(kernel),
        strides=list(layer.strides),
        padding="VALID" if layer.padding == "causal" else layer.padding.upper(),
        dilations=list(layer.dilation_rate),
        data_format=None if last else f"NC{'DHW'[3 - layer.rank :]}",
    )


def _recurrent(operator: str) -> _Original:
    """Returns an `inner_loop` that writes a marker, or does what Keras does where it may not."""
    from keras import layers

    cls = {"GRU": layers.GRU, "LSTM": layers.LSTM, "RNN": layers.SimpleRNN}[operator]
    original = cls.inner_loop

    def inner_loop(
        layer: Any, sequences: Any, initial_state: Any, mask: Any, *, training: bool = False
    ) -> Any:
        activations = _activations(operator, layer.cell)
        if mask is not None or activations is None or layer.stateful:
            return original(layer, sequences, initial_state, mask, training=training)
        return _marker(operator, layer, sequences, initial_state, activations)

    return inner_loop


def _activations(operator: str, cell: Any) -> list[tuple[str, float | None, float | None]] | None:
    """Returns ONNX's activations for the cell, or None if ONNX has none such."""
    main = _activation_name(cell.activation)
    if operator == "RNN":
        names = [main]
    else:
        gate = _activation_name(cell.recurrent_activation)
        names = [gate, main] if operator == "GRU" else [gate, main, main]
    found = [_ACTIVATIONS[name] for name in names if name in _ACTIVATIONS]
    return found if len(found) == len(names) else None


def _activation_name(function: Any) -> str:
    return str(getattr(function, "__name__", ""))


def _marker(
    operator: str,
    layer: Any,
    sequences: Any,
    states: Any,
    activations: list[tuple[str, float | None, float | None]],
) -> tuple[Any, Any, list[Any]]:
    """Returns last output, all outputs and states, from one operator that tf2onnx hands on."""
    import tensorflow as tf

    with tf.init_scope():
        weights = _weights(operator, layer.cell)
    states = list(states) if isinstance(states, (list, tuple)) else [states]
    given = [] if all(map(_is_zero, states)) else states
    settings = {
        "operator": operator,
        "hidden_size": layer.units,
        "backwards": bool(layer.go_backwards),
        "reset_after": bool(getattr(layer.cell, "reset_after", False)),
        "activations": activations,
        "states": len(given),
    }
    count = 3 if operator == "LSTM" else 2
    made = tf.numpy_function(
        _never_run,
        [f"{MARKER}{json.dumps(settings)}", sequences, *weights, *given],
        [sequences.dtype] * count,
    )
    batch, steps = sequences.shape[0], sequences.shape[1]
    outputs = tf.ensure_shape(made[0], [batch, steps, layer.units])
    last = [tf.ensure_shape(state, [batch, layer.units]) for state in made[1:]]
    return last[0], outputs, last


def _never_run(*_: Any) -> Any:
    raise RuntimeError("a marker is converted, never run")


def _is_zero(state: Any) -> bool:
    """Says whether a symbolic state is what Keras starts from when none is given."""
    import tensorflow as tf

    value = tf.get_static_value(state)
    if value is None and state.op.type == "Fill":
        value = tf.get_static_value(state.op.inputs[1])
    return value is not None and not np.any(value)


def _weights(operator: str, cell: Any) -> list[NDArray[Any]]:
    """Returns W [1, gates * hidden, in], R [1, gates * hidden, hidden], B [1, 2 * gates * hidden].

    Source: ONNX's operator specifications of GRU, LSTM and RNN.
    """
    kernel = np.asarray(cell.kernel)
    recurrent = np.asarray(cell.recurrent_kernel)
    bias = np.zeros(kernel.shape[1], kernel.dtype) if cell.bias is None else np.asarray(cell.bias)
    input_bias, recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    order = {"GRU": (0, 1, 2), "LSTM": _LSTM_ORDER, "RNN": (0,)}[operator]

    def reorder(array: NDArray[Any]) -> NDArray[Any]:
        gates = np.split(array, len(order), axis=-1)
        return np.concatenate([gates[gate] for gate in order], axis=-1).T

    both = np.concatenate([reorder(input_bias), reorder(recurrent_bias)])
    return [reorder(kernel)[None], reorder(recurrent)[None], both[None]]
