"""Reshape targets that exporters compute from a dynamic batch become constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import add_initializer, constant, shape_of


def fix_reshape_targets(model: ir.Model) -> bool:
    """Gives a Reshape a constant target where its output has at most one free dimension.

    Keras' Flatten arrives as Shape, Gather, Cast, Slice, Concat and Cast around a Reshape to
    `[batch, 1568]`; what they compute is `[-1, 1568]`.
    """
    changed = False
    for node in model.graph:
        if node.op_type != "Reshape" or constant(node.inputs[1]) is not None:
            continue
        shape = shape_of(node.outputs[0])
        if shape is None or shape.count(None) > 1 or 0 in shape:
            continue
        target = np.asarray([-1 if dim is None else dim for dim in shape], np.int64)
        node.replace_input_with(1, add_initializer(model.graph, "reshape_target", target))
        changed = True
    return changed
