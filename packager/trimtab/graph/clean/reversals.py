"""Reversals that undo each other, as they stand between the directions of a recurrent layer."""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import constant, rank_of, replace_value


def cancel_reversals(model: ir.Model) -> bool:
    """Removes two Slices in a row that each turn the same axes round."""
    changed = False
    for node in list(model.graph):
        before = node.inputs[0].producer() if node.op_type == "Slice" and node.inputs[0] else None
        axes = _reversed_axes(node)
        if before is None or axes is None or _reversed_axes(before) != axes:
            continue
        source = before.inputs[0]
        if source is None or (
            node.outputs[0].is_graph_output()
            and (source.is_graph_input() or source.is_graph_output())
        ):
            continue
        replace_value(node.outputs[0], source)
        model.graph.remove(node, safe=True)
        changed = True
    return changed


def _reversed_axes(node: ir.Node) -> tuple[int, ...] | None:
    """Returns the axes that a Slice turns round as a whole, or None if it does anything else."""
    if node.op_type != "Slice" or len(node.inputs) < 5:
        return None
    starts, ends, axes, steps = (constant(value) for value in node.inputs[1:5])
    rank = rank_of(node.inputs[0])
    if starts is None or ends is None or axes is None or steps is None or rank is None:
        return None
    # From the last element to before the first, which only a very small number says.
    whole = (steps == -1).all() and (starts == -1).all() and (ends <= -(2**31 - 1)).all()
    return tuple(sorted(int(axis) % rank for axis in axes)) if whole else None
