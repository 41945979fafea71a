"""What stayed float in a quantized file, by asking each runtime what it executes."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from trimtab.graph.precision import has_integer_activations
from trimtab.targets import onnxruntime_placed, openvino_placed, tflite_placed
from trimtab.targets.placed import PlacedOperator, Placer
from trimtab_agent.contract.manifest import RuntimeName

PLACERS: dict[RuntimeName, Placer] = {
    "tflite": tflite_placed.placed,
    "onnxruntime": onnxruntime_placed.placed,
    "openvino": openvino_placed.placed,
}


def float_operators(
    target: RuntimeName, path: Path, model: ir.Model
) -> tuple[PlacedOperator, ...] | None:
    """Lists the operators that compute in float although activations are integers, and why.

    Args:
        target: The runtime.
        path: The file.
        model: The graph that it was written from.

    Returns:
        The operators; None where activations are float by intention.

    Raises:
        ExportError: The runtime cannot load the file.
    """
    if not has_integer_activations(model):
        return None
    return tuple(each for each in PLACERS[target](path, model) if each.reason is not None)
