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
from trimtab.graph.keras_config import modern, refuse_code
from trimtab.graph.tensorflow_import import one_line

FAILURES = (
    ValueError,
    TypeError,
    KeyError,
    OSError,
    AttributeError,
    NotImplementedError,
    IndexError,
)
"""What Keras raises, depending on the layer, for a file that it does not understand."""


def read_legacy(path: Path) -> Any:
    """Reads a whole model from a `.h5` file.

    Returns:
        The model, of Keras 3 or of tf-keras.

    Raises:
        ModelError: The file holds no model, weights alone, a model with code of its own, or one
            that nothing here can read.
    """
    config = _config(path)
    refuse_code(config, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras_load(path)
    except FAILURES as error:
        first = error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rebuild(path, config)
    except FAILURES:
        return read_with_keras_2(path, first)


def keras_load(path: Path) -> Any:
    """Loads a model as Keras 3 does, code within it refused."""
    import keras

    return keras.models.load_model(path, compile=False)


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

    model = saving_utils.model_from_config(modern(config))
    if not model.built:
        model.build(_input_shape(config))
    model.load_weights(path)
    return keras.Model(model.inputs, model.outputs) if not model.inputs else model


def _input_shape(config: dict[str, Any]) -> tuple[int | None, ...]:
    """Returns the shape that the first layer was given, for a model that was never called."""
    layers = config.get("config", {})
    layers = layers.get("layers", []) if isinstance(layers, dict) else layers
    first = layers[0].get("config", {}) if layers else {}
    shape = first.get("batch_input_shape") or first.get("batch_shape")
    if shape is None:
        raise ValueError("the model was never called, and no layer says its input's shape")
    return tuple(shape)


def read_with_keras_2(path: Path, reason: Exception) -> Any:
    """Reads a whole model with tf-keras.

    Args:
        path: The file.
        reason: Why Keras 3 could not.

    Raises:
        ModelError: tf-keras is not installed, or cannot read it either.
    """
    if find_spec("tf_keras") is None:
        raise ModelError(
            f"{path} was written by Keras 2, and Keras 3 cannot read it: {one_line(reason)}; "
            f"install Keras 2 beside it: pip install --no-deps tf-keras=={_tensorflow_series()}.*"
        ) from reason
    import tf_keras

    try:
        return tf_keras.models.load_model(path, compile=False)
    except FAILURES as error:
        raise ModelError(f"{path} cannot be read as a Keras model: {one_line(error)}") from error


def _tensorflow_series() -> str:
    """Returns the version of TensorFlow that is there, which tf-keras must match: `2.21`."""
    import tensorflow as tf

    return ".".join(tf.__version__.split(".")[:2])
