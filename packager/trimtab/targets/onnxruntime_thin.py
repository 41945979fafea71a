"""Convolutions of few input channels, which files for ONNX Runtime leave in float.

Its integer convolution copies each window into a row and multiplies rows, which costs more than it
saves where a graph begins with one to four channels. docs/decisions/0015-target-forms.md has the
figures.
"""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import attribute, constant, only_consumer

_MOST_CHANNELS = 4
_MOVING = frozenset({"Flatten", "Identity", "Pad", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_BUILT_IN = frozenset({"Clip", "Relu"})
"""What an integer kernel may have built in."""


def leave_thin_convolutions_float(graph: ir.Graph) -> None:
    """Removes the pairs between a float value and a convolution of up to four channels, in place.

    Without them it is no integer kernel, and its weights become floats when the file is loaded. A
    convolution behind an integer kernel keeps its pair.
    """
    for node in list(graph):
        if node.op_type == "Conv" and not node.domain and _is_thin(node):
            for restore in _pairs_before(node):
                rounding = _rounding(restore)
                assert rounding is not None, "found with it"
                assert rounding.inputs[0] is not None, "what is rounded is given"
                restore.outputs[0].replace_all_uses_with(rounding.inputs[0])
                graph.remove([restore, rounding], safe=True)


def _is_thin(node: ir.Node) -> bool:
    weights = node.inputs[1]
    if weights is None or weights.shape is None or attribute(node, "group", 1) != 1:
        return False
    channels = weights.shape[1]
    return isinstance(channels, int) and channels <= _MOST_CHANNELS


def _pairs_before(node: ir.Node) -> list[ir.Node]:
    """Returns the DequantizeLinears between a float value and a node that alone reads it."""
    found: list[ir.Node] = []
    value = node.inputs[0]
    while value is not None and only_consumer(value) is not None:
        source = value.producer()
        if source is None:
            break
        if source.op_type in _MOVING:
            value = source.inputs[0]
        elif (rounding := _rounding(source)) is not None:
            found.append(source)
            value = rounding.inputs[0]
        else:
            break
    return found if value is not None and _is_float(value) else []


def _rounding(restore: ir.Node) -> ir.Node | None:
    """Returns the QuantizeLinear of a pair that nothing else reads codes of."""
    codes = restore.inputs[0]
    rounding = codes.producer() if codes is not None else None
    if restore.op_type != "DequantizeLinear" or rounding is None or codes is None:
        return None
    is_alone = only_consumer(codes) is restore
    return rounding if is_alone and rounding.op_type == "QuantizeLinear" else None


def _is_float(value: ir.Value) -> bool:
    """Says whether a value is an input, or comes from an operator that reads no codes."""
    node = value.producer()
    while node is not None and node.op_type in _BUILT_IN and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None:
        return True
    operands = [operand.producer() for operand in node.inputs if operand is not None]
    return node.op_type != "DequantizeLinear" and not any(
        operand is not None
        and operand.op_type == "DequantizeLinear"
        and constant(operand.inputs[0]) is None
        for operand in operands
    )
