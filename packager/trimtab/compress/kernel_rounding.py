"""How the weights of an int8 kernel are rounded once their scales are settled.

- To nearest where equal weights must stay equal.
- By the second moments of what the layer reads, where samples were looked at (`gptq`).
- Else a convolution's window by window (`window_rounding`), and matrices to nearest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.affine import WEIGHT_MAX, Rounding
from trimtab.compress.gptq import round_compensated
from trimtab.compress.window_rounding import round_windows
from trimtab.graph.access import attribute, held

Array = NDArray[Any]


def rounding_of(node: ir.Node, moments: Array | None) -> Rounding:
    """Choose how to round the weights of a kernel.

    Args:
        node: A Conv, ConvTranspose, Gemm or MatMul with constant weights.
        moments: Second moments of its inputs, as `input_moments` gives them, or None.

    Returns:
        A function that makes integers of weights over their scales.
    """
    weights = node.inputs[1]
    if weights is not None and held(weights) in {"clusters", "model_clusters"}:
        return np.rint
    if moments is not None:
        return lambda steps: _compensated(node, steps, moments)
    return round_windows if node.op_type == "Conv" else np.rint


def _compensated(node: ir.Node, steps: Array, moments: Array) -> Array:
    """Rounds with one output a row, its inputs in the order of the weights' own axes."""
    is_turned = node.op_type == "MatMul" or (
        node.op_type == "Gemm" and not attribute(node, "transB", 0)
    )
    by_output = steps.T if is_turned else steps
    codes = round_compensated(by_output.reshape(len(by_output), -1), moments, WEIGHT_MAX)
    codes = codes.reshape(by_output.shape)
    return codes.T if is_turned else codes
