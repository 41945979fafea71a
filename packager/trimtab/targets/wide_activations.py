"""Pairs that round activations to 16 bits, taken out for runtimes without kernels for them.

ONNX Runtime and OpenVINO on the CPU would compute in float32 between such pairs anyway, and the
pairs would only cost time. Without them the values are nearer to the float model's.
"""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import constant, replace_value

_WIDE = (ir.DataType.INT16, ir.DataType.UINT16)


def drop_wide_pairs(model: ir.Model) -> int:
    """Removes QuantizeLinear/DequantizeLinear pairs of 16 bits, in place; returns how many."""
    graph = model.graph
    pairs = [node for node in graph if node.op_type == "DequantizeLinear" and _is_wide(node)]
    for restore in pairs:
        codes = restore.inputs[0]
        rounding = codes.producer() if codes is not None else None
        assert rounding is not None, "found by _is_wide"
        assert rounding.inputs[0] is not None, "what is rounded is given"
        if restore.outputs[0].is_graph_output():
            identity = ir.node("Identity", [rounding.inputs[0]])
            graph.insert_before(restore, identity)
            replace_value(restore.outputs[0], identity.outputs[0])
        else:
            restore.outputs[0].replace_all_uses_with(rounding.inputs[0])
        graph.remove(restore, safe=True)
        if not rounding.outputs[0].uses():
            graph.remove(rounding, safe=True)
    return len(pairs)


def _is_wide(node: ir.Node) -> bool:
    codes = node.inputs[0]
    rounding = None if codes is None else codes.producer()
    if codes is None or rounding is None or rounding.op_type != "QuantizeLinear":
        return False
    zero = rounding.inputs[2] if len(rounding.inputs) > 2 else None
    kind = zero.dtype if zero is not None and constant(zero) is not None else codes.dtype
    return kind in _WIDE
