"""Dynamic quantization: int8 weights, and the runtime may round activations as it runs.

The graph holds weights as `quantize_weights` does. What is added is a permission, which is metadata
of the DequantizeLinear of each weight: a runtime may round what that layer reads to 8 bits, with a
range that it takes from each input. It needs no data, no calibration can be wrong, and layers that
have no integer kernel for it compute in float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import onnx_ir as ir

from trimtab.compress.quantize_weights import BITS_KEY, QuantizeWeights
from trimtab.compress.quantize_weights import apply as quantize_weights
from trimtab.graph.access import constant
from trimtab.graph.precision import ACTIVATIONS_KEY

if TYPE_CHECKING:
    from trimtab.compress.context import Context

_LOOKED_UP = frozenset({"Gather"})
"""Operators that read a weight and multiply nothing with it."""


class QuantizeDynamic(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which layers to quantize.

    Attributes:
        layers: Names of weights or of the operators that read them, or kinds of operators, with
            `*` and `?`; all by default.
    """

    layers: tuple[str, ...] = ()


def apply(model: ir.Model, step: QuantizeDynamic, context: Context) -> ir.Model:
    """Returns a copy with int8 weights, one scale for each output, and the permission.

    Raises:
        ModelError: The model has no float32 weights, or one that is not finite.
        RecipeError: A pattern of `layers` matches nothing.
    """
    before = {node.name for node in model.graph if node.op_type == "DequantizeLinear"}
    stored = QuantizeWeights(bits=8, rounding="nearest", layers=step.layers)
    result = quantize_weights(model, stored, context)
    for node in result.graph:
        if node.op_type == "DequantizeLinear" and node.name not in before and _multiplies(node):
            node.metadata_props[ACTIVATIONS_KEY] = "dynamic"
    return result


def _multiplies(node: ir.Node) -> bool:
    """Says whether a DequantizeLinear gives a weight to something else than a look-up."""
    codes = node.inputs[0]
    if constant(codes) is None or codes is None or BITS_KEY not in codes.metadata_props:
        return False
    return any(use.node.op_type not in _LOOKED_UP for use in node.outputs[0].uses())
