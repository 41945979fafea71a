"""Activation codes as uint8, the form in which ONNX Runtime fuses int8 graphs on x86-64.

Its x86-64 kernels multiply uint8 activations by int8 weights, so it turns int8 activations into
uint8 ones when it loads a graph. But it duplicates the DequantizeLinear of a value with several
readers first, and then turns only the values that have one. Around every residual connection
int8 meets uint8, and the convolutions there stay float (ONNX Runtime 1.31, QDQS8ToU8Transformer
after EnsureUniqueDQForNodeUnit). Written as uint8 from the start, the same codes shifted by 128,
all of them become QLinearConv.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.graph.access import add_initializer, constant

_SHIFT = 128


def with_unsigned_activations(model: ir.Model) -> ir.Model:
    """Rewrite int8 activations as uint8. Weights stay int8. What the graph computes is the same.

    Args:
        model: A QDQ graph, as `quantize` makes them. It is not changed.

    Returns:
        A new model. Pairs whose codes are read by other than DequantizeLinear stay as they are.
    """
    result = model.clone()
    graph = result.graph
    shifted: dict[ir.Value, ir.Value] = {}
    for node in graph:
        zero_point = node.inputs[2] if len(node.inputs) > 2 else None
        array = constant(zero_point)
        if node.op_type != "QuantizeLinear" or zero_point is None or array is None:
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        if array.dtype != np.int8 or any(r.op_type != "DequantizeLinear" for r in readers):
            continue
        if zero_point not in shifted:
            unsigned = (array.astype(np.int16) + _SHIFT).astype(np.uint8)
            shifted[zero_point] = add_initializer(graph, f"{zero_point.name}_uint8", unsigned)
        for pair_node in (node, *readers):
            pair_node.replace_input_with(2, shifted[zero_point])
        # A new type object: clones share theirs, and setting `dtype` would change the original.
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    common.RemoveUnusedNodesPass()(result)
    return result
