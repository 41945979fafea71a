"""A graph to a file for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from trimtab.graph.count import count_model
from trimtab.graph.save import save_whole
from trimtab.targets.narrow_codes import widen_narrow_codes
from trimtab.targets.onnxruntime_ort import convert
from trimtab.targets.onnxruntime_thin import leave_thin_convolutions_float
from trimtab.targets.onnxruntime_weights import lower_weights
from trimtab.targets.product_pairs import drop_product_pairs
from trimtab.targets.wide_activations import drop_wide_pairs
from trimtab.targets.writing import CPU_PROVIDER, WriteRequest, Written


def write(model: ir.Model, folder: Path, request: WriteRequest) -> Written:
    """Writes an `.onnx` or `.ort` file; see `Writer`."""
    path = folder / f"{request.stem}.onnx"
    lowered = model.clone()
    drop_wide_pairs(lowered)
    widen_narrow_codes(lowered)
    weight_bytes = count_model(lowered).weight_bytes
    if request.provider == CPU_PROVIDER:  # others want every operator between pairs
        drop_product_pairs(lowered)
        leave_thin_convolutions_float(lowered.graph)
    lower_weights(lowered)
    save_whole(lowered, path)
    if request.form == "ort":
        path = convert(path)
    return Written(path=path, weight_bytes=weight_bytes)
