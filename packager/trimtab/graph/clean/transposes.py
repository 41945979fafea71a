"""Transposes that undo each other, and nodes that do nothing."""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import attribute, constant, rank_of, replace_value


def drop_identities(model: ir.Model) -> bool:
    """Removes Identity, inference-time Dropout, Cast to the same type and no-op Transpose."""
    changed = False
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or not _does_nothing(node, source):
            continue
        if node.outputs[0].is_graph_output() and (
            source.is_graph_input() or source.is_graph_output()
        ):
            continue
        replace_value(node.outputs[0], source)
        model.graph.remove(node, safe=True)
        changed = True
    return changed


def _does_nothing(node: ir.Node, source: ir.Value) -> bool:
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        return _is_inference(node) and not any(mask.uses() for mask in node.outputs[1:])
    if node.op_type == "Cast":
        return source.dtype is not None and source.dtype == attribute(node, "to", None)
    if node.op_type == "Transpose":
        perm = attribute(node, "perm", None)
        return perm is not None and list(perm) == sorted(perm)
    return False


def _is_inference(dropout: ir.Node) -> bool:
    """Says whether a Dropout drops nothing; its third input turns training on."""
    if len(dropout.inputs) < 3 or dropout.inputs[2] is None:
        return True
    training = constant(dropout.inputs[2])
    return training is not None and not training.any()


def cancel_transposes(model: ir.Model) -> bool:
    """Merges a Transpose of a Transpose into one; `drop_identities` removes it if it is none."""
    changed = False
    for node in list(model.graph):
        source = (
            node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] else None
        )
        if source is None or source.op_type != "Transpose" or source.inputs[0] is None:
            continue
        first, second = _perm(source), _perm(node)
        if first is None or second is None:
            continue
        node.replace_input_with(0, source.inputs[0])
        node.attributes["perm"] = ir.AttrInt64s("perm", [first[axis] for axis in second])
        changed = True
    return changed


def _perm(node: ir.Node) -> list[int] | None:
    perm = attribute(node, "perm", None)
    if perm is not None:
        return list(perm)
    rank = rank_of(node.inputs[0])
    return None if rank is None else list(reversed(range(rank)))
