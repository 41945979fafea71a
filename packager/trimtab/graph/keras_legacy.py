"""Whole models in `.h5` files, as Keras 2 wrote them.

Keras 3 reads most of them. Some carry arguments that its layers no longer take; they are dropped
from the stored configuration, and the weights loaded into the model that is rebuilt from it.
What then is left is read with tf-keras (Keras 2 as a package of its own), where it is installed.
"""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trimtab.errors import ModelError
from trimtab.graph.tensorflow_import import one_line

_FAILURES = (
    ValueError,
    TypeError,
    KeyError,
    OSError,
    AttributeError,
    NotImplementedError,
    IndexError,
)
"""What Keras raises, depending on the layer, for a file that it does not understand."""

_GONE: dict[str, tuple[str, ...]] = {
    "DepthwiseConv2D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    "DepthwiseConv1D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    "SeparableConv2D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    "SeparableConv1D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    "Conv2DTranspose": ("groups",),
    "Conv1DTranspose": ("groups",),
    "LSTM": ("time_major", "implementation"),
    "GRU": ("time_major", "implementation"),
    "SimpleRNN": ("time_major", "implementation"),
    "RNN": ("time_major",),
    "Bidirectional": ("time_major",),
    "BatchNormalization": ("virtual_batch_size", "adjustment", "renorm", "fused"),
    "Embedding": ("input_length", "sparse"),
}
"""Arguments of Keras 2's layers that Keras 3 refuses, and that change nothing at inference."""


def read_legacy(path: Path) -> Any:
    """Reads a whole model from a `.h5` file.

    Returns:
        The model, of Keras 3 or of tf-keras.

    Raises:
        ModelError: The file holds no model, weights alone, or a model that nothing here can read.
    """
    import keras

    config = _config(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.models.load_model(path, compile=False)
    except _FAILURES as error:
        first = error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rebuild(path, config)
    except _FAILURES:
        return _read_with_keras_2(path, first)


def _config(path: Path) -> dict[str, Any]:
    """Returns the stored configuration of the model."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
    except OSError as error:
        raise ModelError(f"{path} is no HDF5 file: {one_line(error)}") from error
    if text is None:
        raise ModelError(f"{path} holds weights without a model; save the whole model (model.save)")
    config: dict[str, Any] = json.loads(text)
    return config


def _rebuild(path: Path, config: dict[str, Any]) -> Any:
    """Builds the model from its configuration, rewritten, and loads the weights into it."""
    import keras
    from keras.src.legacy.saving import saving_utils

    model = saving_utils.model_from_config(_modern(config))
    if not model.built:
        model.build(_input_shape(config))
    model.load_weights(path)
    return keras.Model(model.inputs, model.outputs) if not model.inputs else model


def _modern(config: Any) -> Any:
    """Returns the configuration without what Keras 3 refuses, at any depth."""
    if isinstance(config, list):
        return [_modern(item) for item in config]
    if not isinstance(config, dict):
        return config
    result = {key: _modern(value) for key, value in config.items()}
    inner = result.get("config")
    if isinstance(inner, dict):
        for name in _GONE.get(str(result.get("class_name")), ()):
            inner.pop(name, None)
        if result.get("class_name") == "InputLayer" and "batch_input_shape" in inner:
            inner["batch_shape"] = inner.pop("batch_input_shape")
    return result


def _input_shape(config: dict[str, Any]) -> tuple[int | None, ...]:
    """Returns the shape that the first layer was given, for a model that was never called."""
    layers = config.get("config", {})
    layers = layers.get("layers", []) if isinstance(layers, dict) else layers
    first = layers[0].get("config", {}) if layers else {}
    shape = first.get("batch_input_shape") or first.get("batch_shape")
    if shape is None:
        raise ValueError("the model was never called, and no layer says its input's shape")
    return tuple(shape)


def _read_with_keras_2(path: Path, reason: Exception) -> Any:
    if find_spec("tf_keras") is None:
        raise ModelError(
            f"{path} was written by Keras 2, and Keras 3 cannot read it: {one_line(reason)}; "
            "install Keras 2 beside it: pip install trimtab[keras2]"
        ) from reason
    import tf_keras

    try:
        return tf_keras.models.load_model(path, compile=False)
    except _FAILURES as error:
        raise ModelError(f"{path} cannot be read as a Keras model: {one_line(error)}") from error
