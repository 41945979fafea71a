"""The step `dequantize`: make a quantized model float again, so that other steps can work on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import onnx_ir as ir

from trimtab.errors import ModelError
from trimtab.graph.dequantize import casts_weights, dequantized

if TYPE_CHECKING:
    from trimtab.compress.context import Context


class Dequantize(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Has no parameters."""


def is_quantized(model: ir.Model) -> bool:
    """Says whether weights or activations pass through integers."""
    found = {node.op_type for node in model.graph.all_nodes()}
    return not found.isdisjoint({"QuantizeLinear", "DequantizeLinear"})


def apply(model: ir.Model, _step: Dequantize, _context: Context) -> ir.Model:
    """Returns a float copy; what rounding has lost does not come back.

    Raises:
        ModelError: The model is not quantized.
        UnsupportedOperatorError: It computes with integers themselves.
    """
    if not is_quantized(model) and not any(map(casts_weights, model.graph)):
        raise ModelError("dequantize: the model is not quantized; leave out this step")
    return dequantized(model)
