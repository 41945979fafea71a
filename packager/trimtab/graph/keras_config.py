"""A Keras model's stored configuration: what Keras 3 takes of Keras 2's, and what is code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimtab.errors import ModelError

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
    "MultiHeadAttention": (*("query_shape", "key_shape", "value_shape", "softmax_robust_masking"),),
}
"""Arguments of Keras 2's layers that Keras 3 refuses, and that change nothing at inference."""

_GONE_EVERYWHERE = ("rng_type",)

_KERAS_2_ONLY = frozenset(
    {
        *("TFOpLambda", "SlicingOpLambda", "InstanceMethod", "ClassMethod", "InstanceProperty"),
        *("ThresholdedReLU", "LocallyConnected1D", "LocallyConnected2D", "DenseFeatures"),
        *("RandomHeight", "RandomWidth", "CuDNNGRU", "CuDNNLSTM", "SyncBatchNormalization"),
    }
)
"""Layers of Keras 2 that Keras 3 lacks."""

_MODELS = ("Sequential", "Functional", "Model")


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration without what Keras 3 refuses.

    Arguments that are gone are dropped, an input's shape gets its new name, and a slash in a
    layer's name becomes an underscore.
    """
    renamed = {
        name: name.replace("/", "_")
        for name in (entry.get("config", {}).get("name") for entry in _entries(config))
        if isinstance(name, str) and "/" in name
    }
    result: dict[str, Any] = _modern(config, renamed)
    return result


def _modern(part: Any, renamed: dict[str, str]) -> Any:
    if isinstance(part, list):
        return [_modern(item, renamed) for item in part]
    if isinstance(part, str):
        return renamed.get(part, part)
    if not isinstance(part, dict):
        return part
    result = {key: _modern(value, renamed) for key, value in part.items()}
    inner = result.get("config")
    if isinstance(inner, dict):
        for name in (*_GONE.get(str(result.get("class_name")), ()), *_GONE_EVERYWHERE):
            inner.pop(name, None)
        if result.get("class_name") == "InputLayer" and "batch_input_shape" in inner:
            inner["batch_shape"] = inner.pop("batch_input_shape")
    return result


def refuse_code(config: dict[str, Any], path: Path) -> None:
    """Refuses a model with layers that are Python code: of a Lambda, or a class of somebody's own.

    A Lambda's code lies in the file; running it would run whatever the file's author put there.

    Raises:
        ModelError: There are some; all are named.
    """
    import keras

    layers = list(_layers(config))
    lambdas = sorted({str(e["config"].get("name")) for e in layers if e["class_name"] == "Lambda"})
    known = {*vars(keras.layers), *_KERAS_2_ONLY, *_MODELS}
    own = sorted({e["class_name"] for e in layers} - known)
    faults = [f"Lambda layers ({', '.join(lambdas)})"] if lambdas else []
    faults += [f"layers of classes that are not Keras' ({', '.join(own)})"] if own else []
    if faults:
        raise ModelError(
            f"{path} has {' and '.join(faults)}: Python code, which Trimtab does not run from a "
            "file; export the model where that code is, with model.export(folder) or as ONNX"
        )


def _layers(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the entries of the layers, those of models and wrappers within included."""
    inner = config.get("config")
    listed = inner if isinstance(inner, list) else (inner or {}).get("layers", [])
    for entry in listed:
        if isinstance(entry, dict) and isinstance(entry.get("config"), (dict, list)):
            yield entry
            yield from _layers(entry)


def _entries(part: Any) -> Iterator[dict[str, Any]]:
    """Yields every entry with a class and its configuration, at any depth."""
    if isinstance(part, list):
        for item in part:
            yield from _entries(item)
    elif isinstance(part, dict):
        if "class_name" in part and isinstance(part.get("config"), dict):
            yield part
        for value in part.values():
            yield from _entries(value)
