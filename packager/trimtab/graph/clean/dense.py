"""A matrix product and its bias become one Gemm."""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import constant, only_consumer, rank_of, replace_value
from trimtab.graph.clean.scaling import is_wide_float


def fuse_dense_bias(model: ir.Model) -> bool:
    """Turns `MatMul(x, W) + b` into `Gemm(x, W, b)` where x has two dimensions.

    Runtimes fuse a Gemm with its bias into one kernel, quantized too.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "MatMul" or rank_of(node.inputs[0]) != 2:
            continue
        weight = constant(node.inputs[1])
        add = only_consumer(node.outputs[0])
        if not is_wide_float(weight) or weight.ndim != 2 or add is None or add.op_type != "Add":
            continue
        bias = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
        array = constant(bias)
        made = weight.shape[1]
        if array is None or array.shape not in ((made,), (1, made)):
            continue
        gemm = ir.node("Gemm", [node.inputs[0], node.inputs[1], bias], name=node.name)
        model.graph.insert_before(add, gemm)
        replace_value(add.outputs[0], gemm.outputs[0])
        model.graph.remove([add, node], safe=True)
        changed = True
    return changed
