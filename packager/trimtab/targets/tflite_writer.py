"""A graph to a TFLite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from trimtab.targets.tflite_ends import compute_ends_in_float
from trimtab.targets.tflite_flatbuffer import constants, pack, type_name, unpack
from trimtab.targets.tflite_hard_swish import compute_hard_swish_in_float
from trimtab.targets.tflite_int16 import center_gates, widen_biases
from trimtab.targets.tflite_kernels import restore_weights
from trimtab.targets.tflite_marks import drop_marks
from trimtab.targets.tflite_metadata import describe_file, forget_oldest_runtime, with_labels
from trimtab.targets.tflite_weights import store_weights
from trimtab.targets.writing import WriteRequest, Written


def write(model: ir.Model, folder: Path, request: WriteRequest) -> Written:
    """Writes a `.tflite` file through TensorFlow's converter; see `Writer`.

    Weights are stored as the graph stores them, with the exceptions of `tflite_forms`.
    """
    from trimtab.engine.lower import to_tflite

    file = unpack(to_tflite(model))
    drop_marks(file)
    restore_weights(file, model)
    widen_biases(file)
    center_gates(file)
    compute_ends_in_float(file)
    compute_hard_swish_in_float(file)
    if any(form.direct and form.dtype != "float32" for form in store_weights(file, model)):
        forget_oldest_runtime(file)
    describe_file(file, model, request)
    path = folder / f"{request.stem}.tflite"
    path.write_bytes(with_labels(pack(file), request.labels))
    return Written(path=path, weight_bytes=_weight_bytes(file))


def _weight_bytes(file: Any) -> int:
    """Returns what weights and biases take in the file: constants that are floats, or quantized.

    Others are shapes, axes and indices.
    """
    buffers = {
        tensor.buffer
        for graph in file.subgraphs
        for _, tensor in constants(file, graph)
        if type_name(tensor).startswith(("float", "bfloat")) or _is_quantized(tensor)
    }
    return sum(len(file.buffers[number].data) for number in buffers)


def _is_quantized(tensor: Any) -> bool:
    grid = tensor.quantization
    return grid is not None and (bool(grid.detailsType) or grid.scale is not None)
