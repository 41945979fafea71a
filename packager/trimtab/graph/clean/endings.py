"""Activations at the end of a graph, moved behind what only rearranges their values.

Converters push transposes towards the outputs, so that a segmentation from Keras ends in a Softmax
over axis 1 and then a Transpose. Who looks for the logits of an output, as training does, finds
the activation last.
"""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import attribute, only_consumer, rank_of, replace_value

_ANYWHERE = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten"})
"""What a function of single values can change places with; a Softmax only with a Transpose."""


def sink_activations(model: ir.Model) -> bool:
    """Puts a Softmax or Sigmoid behind the node that rearranges it for an output."""
    changed = False
    for output in list(model.graph.outputs):
        mover = output.producer()
        source = mover.inputs[0] if mover is not None and mover.inputs else None
        activation = None if source is None else source.producer()
        if mover is None or source is None or activation is None or len(output.uses()):
            continue
        if only_consumer(source) is not mover or not _may_pass(activation, mover):
            continue
        _sink(model, activation, mover)
        changed = True
    return changed


def _may_pass(activation: ir.Node, mover: ir.Node) -> bool:
    if activation.op_type == "Sigmoid":
        return mover.op_type in _ANYWHERE
    versions = activation.graph.opset_imports if isinstance(activation.graph, ir.Graph) else {}
    # Before operator set 13 a Softmax ran over all axes from its own on.
    known = versions.get("", 1) >= 13 and rank_of(activation.inputs[0]) is not None
    return activation.op_type == "Softmax" and mover.op_type == "Transpose" and known


def _sink(model: ir.Model, activation: ir.Node, mover: ir.Node) -> None:
    moved = mover.outputs[0]
    attributes = {}
    if activation.op_type == "Softmax":
        rank = rank_of(activation.inputs[0]) or 0
        order = list(attribute(mover, "perm", range(rank)[::-1]))
        attributes["axis"] = order.index(attribute(activation, "axis", -1) % rank)
    mover.replace_input_with(0, activation.inputs[0])
    last = ir.node(activation.op_type, [moved], attributes, name=activation.name)
    model.graph.insert_after(mover, last)
    replace_value(moved, last.outputs[0])
    last.replace_input_with(0, moved)
    moved.shape = None
