"""Keras' recurrent layers as one operator each, instead of the loop that Keras traces.

A loop comes out of tf2onnx as an ONNX Loop that no runtime is fast at and no technique can look
into. Here it is replaced, while a model is traced, by one marker operator that carries the weights
in ONNX's order; `tensorflow_handlers` writes the ONNX operator for it. A layer that ONNX's
operators cannot express (another activation) is left to trace as Keras does it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MARKER = "trimtab recurrent layer"

_Activation = tuple[str, float | None, float | None]

_ACTIVATIONS: dict[str, _Activation] = {
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


@dataclass
class States:
    """States of layers that keep theirs between calls, as inputs and outputs of the graph.

    Attributes:
        given: The layer's states at the start, by the layer's identity.
        made: Its states at the end; filled while the model is traced.
    """

    given: dict[int, list[Any]]
    made: dict[int, list[Any]]


def recurrent_loop(operator: str | None, states: States) -> Callable[..., Any]:
    """Returns an `inner_loop` for a layer that traces an operator of ONNX where there is one.

    Args:
        operator: GRU, LSTM or RNN; None for a layer with cells of any other kind.
        states: See there.
    """
    from keras import layers

    kinds = {"GRU": layers.GRU, "LSTM": layers.LSTM, "RNN": layers.SimpleRNN, None: layers.RNN}
    original = kinds[operator].inner_loop

    def inner_loop(
        layer: Any, sequences: Any, initial_state: Any, mask: Any, *, training: bool = False
    ) -> Any:
        initial_state = states.given.get(id(layer), initial_state)
        activations = None if operator is None else _activations(operator, layer.cell)
        if operator is None or activations is None:
            result = original(layer, sequences, initial_state, mask, training=training)
        else:
            marker = _Marker(operator, layer, activations)
            result = marker.trace(sequences, initial_state, mask)
        states.made[id(layer)] = list(result[2])
        return result

    return inner_loop


def _activations(operator: str, cell: Any) -> list[_Activation] | None:
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


@dataclass(frozen=True)
class _Marker:
    """A layer to be traced as one operator.

    Attributes:
        operator: GRU, LSTM or RNN.
        layer: The layer of Keras.
        activations: ONNX's, each with its alpha and beta.
    """

    operator: str
    layer: Any
    activations: list[_Activation]

    def trace(self, sequences: Any, states: Any, mask: Any) -> tuple[Any, Any, list[Any]]:
        """Returns the last output, all outputs and the states, as `inner_loop` does."""
        states = list(states) if isinstance(states, (list, tuple)) else [states]
        if mask is not None:
            return self._masked(sequences, states, mask)
        outputs, last = self._place(sequences, states, backwards=self.layer.go_backwards)
        return last[0], outputs, last

    def _masked(self, data: Any, states: list[Any], mask: Any) -> tuple[Any, Any, list[Any]]:
        """Runs over the visible steps alone, moved to the front, and puts their outputs back.

        A hidden step leaves the states as they are. Its output is the one before it, or zero where
        the layer wants that, as within Bidirectional.
        """
        import tensorflow as tf

        visible = tf.cast(tf.nest.flatten(mask)[0], tf.bool)
        if self.layer.go_backwards:
            data, visible = tf.reverse(data, [1]), tf.reverse(visible, [1])
        steps = tf.shape(visible)[1] if visible.shape[1] is None else visible.shape[1]
        ones = tf.cast(visible, tf.int32)
        # Visible steps in their order, then hidden ones: every step has a key of its own.
        order = tf.math.top_k(ones * steps - tf.range(steps), k=steps).indices
        packed = tf.ensure_shape(tf.gather(data, order, batch_dims=1), data.shape)
        lengths = tf.reduce_sum(ones, axis=1)
        outputs, last = self._place(packed, states, backwards=False, lengths=lengths)
        source = tf.cumsum(ones, axis=1) - 1
        outputs = tf.gather(outputs, tf.maximum(source, 0), batch_dims=1)
        shown = visible if self.layer.zero_output_for_mask else source >= 0
        outputs = outputs * tf.cast(shown, outputs.dtype)[:, :, None]
        if not all(map(_is_zero, states)):
            some = (lengths > 0)[:, None]
            last = [tf.where(some, new, old) for new, old in zip(last, states, strict=True)]
        return outputs[:, -1], outputs, last

    def _place(
        self, data: Any, states: list[Any], *, backwards: bool, lengths: Any = None
    ) -> tuple[Any, list[Any]]:
        """Returns all outputs and the states of one operator that tf2onnx hands on."""
        import tensorflow as tf

        with tf.init_scope():
            weights = _weights(self.operator, self.layer.cell)
        given = [] if all(map(_is_zero, states)) else states
        settings = {
            "operator": self.operator,
            "hidden_size": self.layer.units,
            "backwards": bool(backwards),
            "reset_after": bool(getattr(self.layer.cell, "reset_after", False)),
            "activations": self.activations,
            "lengths": lengths is not None,
        }
        made = tf.numpy_function(
            _never_run,
            [
                f"{MARKER}{json.dumps(settings)}",
                data,
                *weights,
                *([] if lengths is None else [lengths]),
                *given,
            ],
            [data.dtype] * (3 if self.operator == "LSTM" else 2),
        )
        batch, steps = data.shape[0], data.shape[1]
        outputs = tf.ensure_shape(made[0], [batch, steps, self.layer.units])
        return outputs, [tf.ensure_shape(state, [batch, self.layer.units]) for state in made[1:]]


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
