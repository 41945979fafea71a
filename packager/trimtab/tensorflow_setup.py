"""TensorFlow, imported once, quietly, and only by what needs it: it takes 10 s of CPU."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NOISE = (
    "All log messages before absl::InitializeLog()",
    "oneDNN custom operations are on",
    "This TensorFlow binary is optimized to use available CPU instructions",
    "To enable the following instructions",
)
"""Start-up lines that say nothing is wrong. TF_CPP_MIN_LOG_LEVEL does not hold them back: they are
written before TensorFlow reads it."""


def import_tensorflow() -> Any:
    """Returns the `tensorflow` module, with its start-up log silenced.

    The settings hold only where the user has not chosen otherwise.
    """
    if "tensorflow" not in sys.modules or "tf2onnx" not in sys.modules:
        _import_quietly()
    import tensorflow as tf

    return tf


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and TensorFlow."""
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)


def _import_quietly() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # Imports warn of deprecations inside of what they import, which nobody here can act on.
    with warnings.catch_warnings(), _without_noise():
        warnings.simplefilter("ignore")
        import tensorflow as tf
        import tf2onnx  # noqa: F401

        tf.constant(0)  # starts the runtime, which writes its part of the log
    tf.get_logger().setLevel("ERROR")


@contextmanager
def _without_noise() -> Iterator[None]:
    """Holds back what C++ code writes to standard error, and passes on all but `_NOISE`.

    Python's own `sys.stderr` cannot do this: the lines are written to the file descriptor.
    """
    sys.stderr.flush()
    descriptor = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(descriptor, 2)
            os.close(descriptor)
            held_back.seek(0)
            for line in held_back:
                if not any(noise.encode() in line for noise in _NOISE):
                    os.write(2, line)
