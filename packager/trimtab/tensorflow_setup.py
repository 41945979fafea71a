"""TensorFlow, imported once, quietly, and only by what needs it: it takes 10 s of CPU."""

from __future__ import annotations

import os
import warnings
from typing import Any


def import_tensorflow() -> Any:
    """Returns the `tensorflow` module, with its start-up log silenced.

    The settings hold only where the user has not chosen otherwise.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
        import tf2onnx  # noqa: F401 - warns of deprecations in what it imports
    tf.get_logger().setLevel("ERROR")
    return tf


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and TensorFlow."""
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
