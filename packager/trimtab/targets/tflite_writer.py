"""A graph to a TFLite file."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from trimtab.graph.count import count_model
from trimtab.graph.precision import has_integer_activations
from trimtab.targets.writing import WriteRequest, Written


def write(model: ir.Model, folder: Path, request: WriteRequest) -> Written:
    """Writes a `.tflite` file through TensorFlow's converter; see `Writer`."""
    from trimtab.engine.lower import to_tflite

    path = folder / f"{request.stem}.tflite"
    path.write_bytes(to_tflite(model))
    return Written(path=path, weight_bytes=_weight_bytes(model))


def _weight_bytes(model: ir.Model) -> int:
    """Returns what the weights take as the file stores them.

    The converter keeps integer weights only where activations are integers too: in a graph with
    weights alone quantized it writes them out as float32.
    """
    count = count_model(model)
    return count.weight_bytes if has_integer_activations(model) else count.parameters * 4
