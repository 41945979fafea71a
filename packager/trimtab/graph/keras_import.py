"""A `.keras` or `.h5` file to an ONNX graph, by way of tf2onnx.

Keras' own ONNX export refuses Sequential models ("never called") and goes through torch's
naming; a `tf.function` around the model converts every model that TensorFlow can trace.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir

from trimtab.errors import ModelError
from trimtab.graph.keras_config import refuse_code
from trimtab.graph.keras_layers import exportable_layers
from trimtab.graph.keras_legacy import FAILURES, keras_load, read_legacy, read_with_keras_2
from trimtab.graph.keras_recurrent import States
from trimtab.graph.tensorflow_import import clean_name, convert_function, one_line, unique
from trimtab.tensorflow_setup import import_tensorflow


def read_keras(path: Path) -> ir.Model:
    """Reads a `.keras` file, or a whole model in a `.h5` file of Keras 2 or 3.

    Raises:
        ModelError: The file is no Keras model, or TensorFlow or tf2onnx cannot convert it.
    """
    import_tensorflow()
    return convert_keras(_load(path), str(path))


def _load(path: Path) -> Any:
    if path.suffix.lower() in (".h5", ".hdf5"):
        return read_legacy(path)
    config, version = _archived(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras_load(path)
    except FAILURES as error:
        refuse_code(config, path)
        if version.startswith("2."):
            return read_with_keras_2(path, error)
        raise ModelError(f"{path} cannot be read as a Keras model: {one_line(error)}") from error


def _archived(path: Path) -> tuple[dict[str, Any], str]:
    """Returns the configuration in a `.keras` file, and the version of Keras that wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            metadata = json.loads(archive.read("metadata.json"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as a Keras model: {one_line(error)}; a .keras file is a zip "
            "archive with a config.json and a metadata.json, as model.save writes it"
        ) from error
    return config, str(metadata.get("keras_version", ""))


def convert_keras(model: Any, source: str) -> ir.Model:
    """Converts a Keras model (of Keras 3, or of tf-keras).

    Args:
        model: A model that was built.
        source: What is converted, for messages.

    Returns:
        The graph. The states of layers that keep theirs between calls (`stateful=True`) are its
        last inputs, `<layer>_state_0` and so on, and its last outputs, `<layer>_state_0_next`.

    Raises:
        ModelError: The model was never built, or cannot be converted.
    """
    import tensorflow as tf

    signature, kept = _signature(model, source), _kept_states(model, source)
    states = States({}, {})
    signature += [spec for specs in kept.values() for spec in specs]
    function = tf.function(lambda *inputs: _call(model, inputs, kept, states))
    with exportable_layers(states), _stateless(kept), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = _count_outputs(function, signature, source) - sum(map(len, kept.values()))
        names = _output_names(model, count)
        names += [f"{spec.name}_next" for specs in kept.values() for spec in specs]
        graph = convert_function(function, signature, names, source)
    scope = _scope(graph, model)
    for node in graph.graph:
        node.name = (node.name or "").removeprefix(f"{scope}/")
    return graph


def _signature(model: Any, source: str) -> list[Any]:
    import tensorflow as tf

    # A model that is a class of its own keeps the shape it was built for, and no inputs.
    inputs = getattr(model, "inputs", None)
    if inputs:
        names = unique(clean_name(tensor.name) for tensor in inputs)
        return [
            tf.TensorSpec(tuple(tensor.shape), tensor.dtype, name=name)
            for tensor, name in zip(inputs, names, strict=True)
        ]
    built: dict[str, Any] = getattr(model, "get_build_config", dict)() or {}
    shape = built.get("input_shape")
    if not model.built or not shape or not all(isinstance(d, (int, type(None))) for d in shape):
        raise ModelError(
            f"{source}: the model was never called, so that the shape of its input is unknown; "
            "call it once on an array of samples, or begin it with keras.Input, and save it again"
        )
    return [tf.TensorSpec((None, *shape[1:]), tf.float32, name="input")]


def _kept_states(model: Any, source: str) -> dict[Any, list[Any]]:
    """Returns a spec for each state of each layer that keeps its own between calls."""
    import keras
    import tensorflow as tf

    specs = {}
    for layer in model._flatten_layers():  # noqa: SLF001  # nested ones too
        if getattr(layer, "stateful", False) is not True or hasattr(layer, "forward_layer"):
            continue
        if not isinstance(layer, keras.layers.RNN):
            raise ModelError(
                f"{source}: layer {layer.name!r} keeps its state between calls (stateful=True); "
                "rebuild the model with Keras 3, or with the states as inputs and outputs"
            )
        specs[layer] = [
            tf.TensorSpec(state.shape, state.dtype, name=clean_name(f"{layer.name}_state_{index}"))
            for index, state in enumerate(tf.nest.flatten(layer.states))
        ]
    return specs


@contextmanager
def _stateless(layers: Iterable[Any]) -> Iterator[None]:
    """Keeps layers from storing their states while they are traced."""
    layers = list(layers)
    for layer in layers:
        layer.stateful = False
    try:
        yield
    finally:
        for layer in layers:
            layer.stateful = True


def _call(
    model: Any, inputs: tuple[Any, ...], kept: dict[Any, list[Any]], states: States
) -> list[Any]:
    """Calls the model on its inputs, behind which the states of its layers stand."""
    import tensorflow as tf

    own = list(inputs[: len(inputs) - sum(map(len, kept.values()))])
    rest = iter(inputs[len(own) :])
    states.given = {id(layer): [next(rest) for _ in specs] for layer, specs in kept.items()}
    # A model of several inputs takes them as it was built: a list, or a dictionary.
    given = tf.nest.pack_sequence_as(model.input, own) if len(own) > 1 else own[0]
    outputs = tf.nest.flatten(model(given, training=False))
    for layer in kept:
        outputs += tf.nest.flatten(states.made[id(layer)])
    return [tf.identity(output) for output in outputs]


def _count_outputs(function: Any, signature: list[Any], source: str) -> int:
    try:
        return len(function.get_concrete_function(*signature).outputs)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ModelError(f"{source} cannot be traced by TensorFlow: {one_line(error)}") from error


def _output_names(model: Any, count: int) -> list[str]:
    """Returns the names of the layers that make the outputs; Sequential models keep no list."""
    names = getattr(model, "output_names", None)
    names = list(names) if names else [model.layers[-1].name if model.layers else "output"]
    names = names if len(names) == count else names[:1] * count
    return [clean_name(name) for name in names]


def _scope(graph: ir.Model, model: Any) -> str:
    """Returns what TensorFlow puts in front of every name: the model's name, perhaps numbered."""
    first = (str(node.name).split("/")[0] for node in graph.graph if "/" in str(node.name))
    pattern = re.compile(rf"{re.escape(model.name)}(_\d+)*")
    return next((name for name in first if pattern.fullmatch(name)), str(model.name))
