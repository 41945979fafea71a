"""A `.keras` file to an ONNX graph, by way of tf2onnx.

Keras' own ONNX export refuses Sequential models ("never called") and goes through torch's
naming; a `tf.function` around the model converts every model that TensorFlow can trace.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from trimtab.errors import ModelError
from trimtab.graph.access import add_initializer, constant
from trimtab.tensorflow_setup import import_tensorflow

_OPSET = 17
"""Highest opset that tf2onnx 1.17 writes reliably, and one that every supported runtime reads."""


def read_keras(path: Path) -> ir.Model:
    """Reads a `.keras` file.

    Raises:
        ModelError: The file is no Keras model, or TensorFlow or tf2onnx cannot convert it.
    """
    tf = import_tensorflow()
    import keras
    import tf2onnx

    try:
        model = keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read as a Keras model: {_line(error)}") from error
    names = [_clean_name(tensor.name) for tensor in model.inputs]
    signature = [
        tf.TensorSpec(tuple(tensor.shape), tensor.dtype, name=name)
        for tensor, name in zip(model.inputs, names, strict=True)
    ]
    # Keras restores the order of the inputs, so one list serves Sequential and Functional alike.
    function = tf.function(lambda *inputs: _call(model, inputs))
    try:
        proto, _ = tf2onnx.convert.from_function(function, signature, opset=_OPSET)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{path} cannot be converted to ONNX: {_line(error)}") from error
    graph: ir.Model = ir.from_proto(proto)
    _rename_outputs(graph, [_clean_name(name) for name in _output_names(model)])
    scope = _scope(graph, model)
    for node in graph.graph:
        node.name = (node.name or "").removeprefix(f"{scope}/")
    _untie_constant_biases(graph)
    return graph


def _call(model: Any, inputs: tuple[Any, ...]) -> Any:
    return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)


def _output_names(model: Any) -> list[str]:
    """Returns the names of the layers that make the outputs; Sequential models keep no list."""
    names = getattr(model, "output_names", None)
    return list(names) if names else [model.layers[-1].name]


def _rename_outputs(model: ir.Model, names: list[str]) -> None:
    """Gives the outputs Keras' names in place of TensorFlow's `Identity:0`."""
    taken = {value.name for value in model.graph.inputs}
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = f"{name}_output" if name in taken else name


def _scope(graph: ir.Model, model: Any) -> str:
    """Returns what TensorFlow puts in front of every name: the model's name, perhaps numbered."""
    first = (str(node.name).split("/")[0] for node in graph.graph if "/" in str(node.name))
    pattern = re.compile(rf"{re.escape(model.name)}(_\d+)*")
    return next((name for name in first if pattern.fullmatch(name)), str(model.name))


def _untie_constant_biases(model: ir.Model) -> None:
    """Gives every layer a bias of its own where it is the same number throughout.

    tf2onnx stores equal constants once. Biases that are all zero by chance would then be trained
    and pruned as one.
    """
    for value in list(model.graph.initializers.values()):
        array = constant(value)
        if array is None or array.ndim != 1 or array.dtype.kind != "f" or np.ptp(array) != 0:
            continue
        for use in list(value.uses())[1:]:
            use.node.replace_input_with(
                use.idx, add_initializer(model.graph, str(value.name), array)
            )


def _clean_name(name: str) -> str:
    """Returns a name that every runtime takes: letters, digits, `_`."""
    return re.sub(r"\W", "_", name.split(":", maxsplit=1)[0])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
