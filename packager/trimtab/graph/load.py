"""A model file to a cleaned graph."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from trimtab.errors import ModelError
from trimtab.graph.clean import clean

_KINDS = {".onnx": "ONNX", ".keras": "Keras"}


def load_model(path: Path | str) -> ir.Model:
    """Loads a trained model and cleans its graph.

    Args:
        path: An `.onnx` or a `.keras` file.

    Returns:
        The cleaned float graph. Inputs keep the layout that they have in the file's framework,
        such as NHWC for Keras.

    Raises:
        ModelError: There is no such file, or it is no model, or it cannot be converted.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is no file; give a model file ({', '.join(_KINDS)})")
    if path.suffix not in _KINDS:
        raise ModelError(
            f"{path} ends in {path.suffix or 'nothing'!r}; models end in {', '.join(_KINDS)}"
        )
    model = _read_onnx(path) if path.suffix == ".onnx" else _read_keras(path)
    _check_batch(model, path)
    return clean(model)


_OLDEST_OPSET = 13
"""From here on axes are inputs and Softmax works along one axis; older models are brought up."""


def _read_onnx(path: Path) -> ir.Model:
    import onnx.checker
    import onnx.version_converter

    try:
        model = ir.load(path)
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto)
        if model.opset_imports.get("", _OLDEST_OPSET) < _OLDEST_OPSET:
            model = ir.from_proto(onnx.version_converter.convert_version(proto, _OLDEST_OPSET))
    except Exception as error:
        raise ModelError(f"{path} is not a valid ONNX model: {_first_line(error)}") from error
    if not model.graph.inputs or not model.graph.outputs:
        raise ModelError(f"{path} has no inputs or no outputs: it is an empty ONNX model")
    return model


def _read_keras(path: Path) -> ir.Model:
    from trimtab.graph.keras_import import read_keras

    return read_keras(path)


def _check_batch(model: ir.Model, path: Path) -> None:
    """Refuses a model that takes several samples at a time and no other number of them."""
    constants = model.graph.initializers
    for value in model.graph.inputs:
        batch = value.shape[0] if value.shape else None
        if value.name not in constants and isinstance(batch, int) and batch != 1:
            raise ModelError(
                f"{path}: input {value.name!r} has a fixed batch of {batch}; export the model with "
                "a first dimension that is free, or 1"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
