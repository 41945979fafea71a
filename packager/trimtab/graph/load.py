"""A model file, of whatever framework, to a cleaned graph.

Each reader is imported when it is used: TensorFlow takes seconds, and torch may not be there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.errors import ModelError
from trimtab.graph.access import Array, constant
from trimtab.graph.clean import clean
from trimtab.graph.onnx_import import read_onnx
from trimtab.graph.precision import to_single_precision

_Reader = Callable[[Path], ir.Model]


def load_model(path: Path | str) -> ir.Model:
    """Loads a trained model and cleans its graph.

    Args:
        path: A file of one of the formats in `FORMATS`, or the folder of a SavedModel.

    Returns:
        The cleaned graph: float32, whatever floats the file has, or with
        QuantizeLinear/DequantizeLinear pairs where the file is quantized. Inputs keep the layout
        that they have in the file's framework, such as NHWC for Keras.

    Raises:
        ModelError: There is no such file, or it is no model, or it cannot be converted, or a
            weight is not finite.
        UnsupportedOperatorError: The file has operators that ONNX lacks.
    """
    path = Path(path)
    _, read = _format(path)
    _refuse_pointer(path)
    model = read(path)
    if not model.graph.inputs or not model.graph.outputs:
        raise ModelError(f"{path} has no inputs or no outputs: it is an empty model")
    _check_batch(model, path)
    common.InlinePass()(model)
    to_single_precision(model)
    _check_weights(model, path)
    return clean(model)


def format_of(path: Path | str) -> str:
    """Returns what a model's format is called, by its ending or, of a folder, by what is in it.

    Raises:
        ModelError: There is no such file, or it has another ending.
    """
    return _format(Path(path))[0]


def _read_keras(path: Path) -> ir.Model:
    from trimtab.graph.keras_import import read_keras

    return read_keras(path)


def _read_saved_model(path: Path) -> ir.Model:
    from trimtab.graph.saved_model_import import read_saved_model

    return read_saved_model(path)


def _read_tflite(path: Path) -> ir.Model:
    from trimtab.graph.tflite_import import read_tflite

    return read_tflite(path)


def _read_torch(path: Path) -> ir.Model:
    from trimtab.graph.torch_import import read_exported_program

    return read_exported_program(path)


FORMATS: dict[str, tuple[str, _Reader]] = {
    ".onnx": ("ONNX", read_onnx),
    ".keras": ("Keras", _read_keras),
    ".h5": ("Keras HDF5", _read_keras),
    ".hdf5": ("Keras HDF5", _read_keras),
    ".tflite": ("TFLite", _read_tflite),
    ".pt2": ("PyTorch exported program", _read_torch),
}
"""What a model's file may end in, what that format is called, and what reads it."""

_TORCH_PICKLES = (".pt", ".pth", ".torchscript", ".ckpt", ".ptl", ".bin", ".safetensors")


def _format(path: Path) -> tuple[str, _Reader]:
    known = f"models end in {', '.join(FORMATS)}, or are the folder of a SavedModel"
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "SavedModel", _read_saved_model
        raise ModelError(f"{path} is a folder without a saved_model.pb; {known}")
    if not path.is_file():
        raise ModelError(f"{path} is no file; {known}")
    if path.suffix.lower() in _TORCH_PICKLES:
        raise ModelError(
            f"{path} is a TorchScript file, a pickle or weights alone, none of which can be "
            "exported; in PyTorch write torch.export.save(torch.export.export(model.eval(), "
            "(example,)), 'model.pt2'), or torch.onnx.export(..., 'model.onnx')"
        )
    if path.suffix.lower() not in FORMATS:
        raise ModelError(f"{path} ends in {path.suffix or 'nothing'!r}; {known}")
    return FORMATS[path.suffix.lower()]


_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file of Git LFS begins whose content was not fetched (git-lfs/docs/spec.md)."""


def _refuse_pointer(path: Path) -> None:
    for file in (path / "saved_model.pb", path):
        if file.is_file():
            with file.open("rb") as stream:
                if stream.read(len(_POINTER)) == _POINTER:
                    raise ModelError(
                        f"{file} is a pointer of Git LFS, not the model itself; get the model "
                        "with git lfs pull"
                    )


_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM", "RNN", "BatchNormalization")


def _check_weights(model: ir.Model, path: Path) -> None:
    """Refuses NaN in any constant, and infinity in a layer's weight.

    Elsewhere infinity may be meant: a mask of attention, the bound of a Clip.
    """
    for graph in {node.graph for node in model.graph.all_nodes()} | {model.graph}:
        for value in graph.initializers.values():  # type: ignore[union-attr]
            array = constant(value)
            if array is None or array.dtype.kind != "f":
                continue
            bad = np.isnan(array) if not _is_layer_weight(value) else ~np.isfinite(array)
            if bad.any():
                raise ModelError(_bad_weight(value, array, bad, path))


def _is_layer_weight(value: ir.Value) -> bool:
    return any(use.node.op_type in _LAYERS for use in value.uses())


def _bad_weight(value: ir.Value, array: Array, bad: Array, path: Path) -> str:
    first = tuple(map(int, np.argwhere(bad)[0]))
    return (
        f"{path}: weight {value.name!r} has {np.count_nonzero(bad)} of {array.size} values that "
        f"are not finite, the first {array[first]} at {list(first)}; the model was broken in "
        "training or in its export"
    )


def _check_batch(model: ir.Model, path: Path) -> None:
    """Refuses a model that takes several samples at a time and no other number of them.

    Only the first input is asked: a state may have any first dimension.
    """
    constants = model.graph.initializers
    value = next((value for value in model.graph.inputs if value.name not in constants), None)
    batch = value.shape[0] if value is not None and value.shape else None
    if value is not None and isinstance(batch, int) and batch != 1:
        raise ModelError(
            f"{path}: input {value.name!r} has a fixed batch of {batch}; export the model with "
            "a first dimension that is free, or 1"
        )
