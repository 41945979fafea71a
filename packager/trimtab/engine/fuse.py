"""Finds GELU in the pieces that exporters cut it into, because TFLite has it whole, but no Erf.

`x / 2 * (1 + erf(x / sqrt(2)))` (Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"); the
factors come in any order, and the division as a product (PyTorch before opset 20, tf2onnx).
"""

from __future__ import annotations

import math

import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.graph.access import constant


def fuse_gelu(model: ir.Model) -> ir.Model:
    """Returns a copy of `model` in which every GELU is one node."""
    model = model.clone()
    for node in list(model.graph):
        if node.op_type != "Erf":
            continue
        found = _whole(node)
        if found is None:
            continue
        source, result = found
        last = result.producer()
        assert last is not None
        gelu = ir.node("Gelu", [source], name=last.name)
        gelu.outputs[0].shape = result.shape
        gelu.outputs[0].type = result.type
        model.graph.insert_after(last, gelu)
        result.replace_all_uses_with(gelu.outputs[0])
    common.RemoveUnusedNodesPass()(model)
    return model


def _whole(erf: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Returns what goes into the GELU around an Erf, and what comes out, if it is one."""
    source = _unscaled(erf.inputs[0])
    shifted = _after(erf.outputs[0], "Add")
    if source is None or shifted is None or not _is_number(_other(shifted, erf.outputs[0]), 1.0):
        return None
    result, missing = shifted.outputs[0], {"source", "half"}
    while missing:
        product = _after(result, "Mul")
        if product is None:
            return None
        factors = _factors(_other(product, result), source)
        if not factors or not factors <= missing:
            return None
        missing -= factors
        result = product.outputs[0]
    return None if result.is_graph_output() else (source, result)


def _unscaled(value: ir.Value | None) -> ir.Value | None:
    """Returns x of `x / sqrt(2)`, which may be several products and changes of sign."""
    scale = 1.0
    while value is not None and not math.isclose(scale, math.sqrt(0.5), rel_tol=1e-4):
        step = _scaling(value.producer())
        if step is None:
            return None
        value, factor = step
        scale *= factor
    return value


def _scaling(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """Returns what a node multiplies by a number, and the number."""
    if node is None or node.op_type not in ("Neg", "Mul", "Div"):
        return None
    source = node.inputs[0]
    if node.op_type == "Neg":
        return None if source is None else (source, -1.0)
    for index in (1,) if node.op_type == "Div" else (0, 1):
        number, other = constant(node.inputs[index]), node.inputs[1 - index]
        if number is not None and number.size == 1 and number.item() and other is not None:
            factor = float(number.item())
            return other, 1 / factor if node.op_type == "Div" else factor
    return None


def _factors(value: ir.Value | None, source: ir.Value) -> set[str]:
    """Says which of `x` and one half a factor is; it may be their product."""
    if value is source:
        return {"source"}
    if _is_number(value, 0.5):
        return {"half"}
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Mul" and source in node.inputs:
        return {"source"} | _factors(_other(node, source), source)
    return set()


def _after(value: ir.Value, operator: str) -> ir.Node | None:
    """Returns the one node that reads a value, if it is of this operator."""
    uses = list(value.uses())
    alone = len(uses) == 1 and not value.is_graph_output()
    return uses[0].node if alone and uses[0].node.op_type == operator else None


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Returns the operand of a node of two that is not `value`."""
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _is_number(value: ir.Value | None, number: float) -> bool:
    array = constant(value)
    return (
        array is not None and array.size == 1 and math.isclose(array.item(), number, rel_tol=1e-4)
    )
