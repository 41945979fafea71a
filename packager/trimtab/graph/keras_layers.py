"""Keras layers that must be traced differently so that they convert."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trimtab.graph.keras_recurrent import States, recurrent_loop

_Original = Callable[..., Any]


@contextmanager
def exportable_layers(states: States) -> Iterator[None]:
    """Replaces what must be traced differently, for as long as the context lasts.

    Args:
        states: Of the layers that keep theirs between calls.
    """
    from keras import layers
    from keras.src.backend.tensorflow import nn

    changes: list[tuple[Any, str, _Original]] = [
        (layers.GRU, "inner_loop", recurrent_loop("GRU", states)),
        (layers.LSTM, "inner_loop", recurrent_loop("LSTM", states)),
        (layers.SimpleRNN, "inner_loop", recurrent_loop("RNN", states)),
        (layers.RNN, "inner_loop", recurrent_loop(None, states)),
        (layers.TimeDistributed, "call", _time_distributed()),
        (nn, "conv", _convolution),
    ]
    own = [(owner, name, vars(owner).get(name)) for owner, name, _ in changes]
    for owner, name, replacement in changes:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in own:
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)


def _convolution(  # noqa: PLR0917  # Keras' signature
    inputs: Any,
    kernel: Any,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: int | Sequence[int] = 1,
) -> Any:
    """A convolution without the XLA function that Keras wraps a grouped one in on a CPU."""
    import keras
    import tensorflow as tf

    first = (data_format or keras.config.image_data_format()) == "channels_first"
    rank = len(inputs.shape) - 2
    return tf.nn.convolution(
        inputs,
        tf.convert_to_tensor(kernel),
        strides=strides,
        padding=padding.upper(),
        dilations=dilation_rate,
        data_format=f"NC{'DHW'[3 - rank :]}" if first else None,
    )


def _time_distributed() -> _Original:
    """Returns a `call` that runs the inner layer once, with the steps laid along the batch.

    Keras runs it once a step, which makes as many layers of one, or a loop.
    """
    from keras import layers

    original = layers.TimeDistributed.call

    def call(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        import tensorflow as tf

        inner = inputs.shape[2:]
        if mask is not None or None in inner:
            return original(layer, inputs, training=training, mask=mask)
        options = {"training": training} if layer.layer._call_has_training_arg else {}  # noqa: SLF001
        result = layer.layer.call(tf.reshape(inputs, [-1, *inner]), **options)
        steps = tf.shape(inputs)[1] if inputs.shape[1] is None else inputs.shape[1]
        return tf.reshape(result, [-1, steps, *result.shape[1:]])

    return call
