"""Zeros that a Pad puts around an image are left to the convolution or pooling behind it.

Keras' ZeroPadding2D arrives as a Pad of its own. Runtimes have kernels that pad as they go, and
for an int8 graph a Pad in between is a float island.
"""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import attribute, constant, integers, rank_of

_WINDOWS = frozenset({"Conv", "AveragePool", "MaxPool"})


def fold_pads(model: ir.Model) -> bool:
    """Merges each Pad into the operators that read it, where all of them can take it."""
    changed = False
    for node in list(model.graph):
        pads = _zero_borders(node)
        if pads is None or node.outputs[0].is_graph_output():
            continue
        users = [use.node for use in node.outputs[0].uses()]
        if users and all(_takes_pads(user, node) for user in users):
            for user in users:
                _widen(user, pads)
                user.replace_input_with(0, node.inputs[0])
            changed = True
    return changed


def _zero_borders(node: ir.Node) -> list[int] | None:
    """Returns what a Pad adds along the spatial axes, all befores first, or None if not zeros."""
    if node.op_type != "Pad" or node.domain or attribute(node, "mode", "constant") != "constant":
        return None
    pads, rank = integers(node, 1, "pads"), rank_of(node.inputs[0])
    if pads is None or rank is None or rank < 3 or min(pads) < 0 or not _fills_with_zero(node):
        return None
    axes = integers(node, 3, "axes") or tuple(range(rank))
    widths = {axis % rank: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    if any(widths.get(axis, (0, 0)) != (0, 0) for axis in (0, 1)):
        return None
    spatial = [widths.get(axis, (0, 0)) for axis in range(2, rank)]
    return [before for before, _ in spatial] + [after for _, after in spatial]


def _fills_with_zero(node: ir.Node) -> bool:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        fill = constant(node.inputs[2])
        return fill is not None and not fill.any()
    return bool(attribute(node, "value", 0.0) == 0)  # an attribute before opset 11


def _takes_pads(user: ir.Node, pad: ir.Node) -> bool:
    """Says whether an operator's own padding would do what the Pad does."""
    if user.op_type not in _WINDOWS or user.domain or user.inputs[0] is not pad.outputs[0]:
        return False
    if len(user.outputs) > 1 or attribute(user, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    if user.op_type == "Conv":
        return pad.outputs[0] not in user.inputs[1:]
    if attribute(user, "ceil_mode", 0) or not _windows_reach_in(user, pad):
        return False
    if user.op_type == "AveragePool":  # one that leaves borders out counts the Pad's zeros still
        return attribute(user, "count_include_pad", 0) == 1 or not any(attribute(user, "pads", ()))
    # A MaxPool's own border is lower than any number: as good as zero if no number is below zero.
    return _is_never_negative(pad.inputs[0])


def _windows_reach_in(user: ir.Node, pad: ir.Node) -> bool:
    """Says whether every window keeps an element that is no border, as poolings demand."""
    kernel = attribute(user, "kernel_shape", ())
    borders, own = _zero_borders(pad) or [], attribute(user, "pads", [0] * 2 * len(kernel))
    sums = [one + other for one, other in zip(borders, own, strict=True)]
    return all(width < size for width, size in zip(sums, [*kernel, *kernel], strict=True))


def _is_never_negative(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    if producer is None:
        return False
    if producer.op_type == "Clip":
        low = constant(producer.inputs[1]) if len(producer.inputs) > 1 else None
        return low is not None and bool((low >= 0).all())
    return producer.op_type in ("Relu", "Sigmoid")


def _widen(user: ir.Node, pads: list[int]) -> None:
    own = attribute(user, "pads", [0] * len(pads))
    user.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, pads, strict=True)])
    user.attributes.pop("auto_pad", None)
    if user.op_type == "AveragePool":
        user.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
