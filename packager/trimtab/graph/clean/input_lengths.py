"""Lengths that are needed at run time are read from the graph's inputs, not from inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import add_initializer, constant
from trimtab.graph.shapes import Length, free_length


def from_inputs(
    model: ir.Model, node: ir.Node, index: int, lengths: Sequence[Length | int]
) -> bool:
    """Lets a node's input of lengths be a Concat of numbers and of lengths of graph inputs.

    Args:
        model: Its graph holds the node.
        node: A Reshape or Expand.
        index: Which of its inputs.
        lengths: What that input holds. Each is a number or a free dimension of an input.

    Returns:
        Whether it was changed: false too where a length is neither, or where it already is so.
    """
    if _is_canonical(node.inputs[index]):
        return False
    places = _places(model.graph)
    if any(isinstance(length, Length) and length not in places for length in lengths):
        return False
    parts: list[ir.Value] = []
    made: list[ir.Node] = []
    for length in lengths:
        if isinstance(length, Length):
            value, axis = places[length]
            made.append(ir.node("Shape", [value]))
            at = add_initializer(model.graph, "axis", np.asarray([axis], np.int64))
            made.append(ir.node("Gather", [made[-1].outputs[0], at], {"axis": 0}))
            parts.append(made[-1].outputs[0])
        else:
            parts.append(add_initializer(model.graph, "length", np.asarray([length], np.int64)))
    made.append(ir.node("Concat", parts, {"axis": 0}))
    model.graph.insert_before(node, made)
    node.replace_input_with(index, made[-1].outputs[0])
    return True


def _places(graph: ir.Graph) -> dict[Length, tuple[ir.Value, int]]:
    """Returns where each free dimension is found among the inputs."""
    places: dict[Length, tuple[ir.Value, int]] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                places.setdefault(free_length(value, axis), (value, axis))
    return places


def _is_canonical(value: ir.Value | None) -> bool:
    """Says whether lengths are constants, or already read as `from_inputs` would."""
    if constant(value) is not None:
        return True
    concat = value.producer() if value is not None else None
    if concat is None or concat.op_type != "Concat":
        return False
    for part in concat.inputs:
        if constant(part) is None and not _is_input_length(part):
            return False
    return True


def _is_input_length(value: ir.Value | None) -> bool:
    """Says whether a value is Gather of Shape of a graph input."""
    for operator in ("Gather", "Shape"):
        producer = value.producer() if value is not None else None
        if producer is None or producer.op_type != operator:
            return False
        value = producer.inputs[0]
    return value is not None and value.is_graph_input()
