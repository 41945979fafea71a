"""Control flow whose course is known: the branch of an If that is taken, a Loop's rounds in a row.

What depends on data stays as it is. No technique changes what is inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import add_initializer, attribute, constant, replace_value
from trimtab.graph.clean.loop_rounds import count_rounds

MAX_ROUNDS = 64
"""A Loop of more rounds stays a Loop: written out, it would cost more than it opens up."""

_MAX_NODES = 2000


def inline_known_branches(model: ir.Model) -> bool:
    """Puts the branch that is taken in the place of an If with a constant condition."""
    changed = False
    for node in [node for node in model.graph if node.op_type == "If" and not node.domain]:
        condition = constant(node.inputs[0])
        if condition is None:
            continue
        branch = attribute(node, "then_branch" if condition.any() else "else_branch", None)
        results = _place(model, branch, node, {})
        _replace_outputs(model, node, results)
        changed = True
    return changed


def unroll_short_loops(model: ir.Model) -> bool:
    """Writes a Loop out that goes through a known, small number of rounds."""
    changed = False
    for node in [node for node in model.graph if node.op_type == "Loop" and not node.domain]:
        rounds = _rounds(model, node)
        if rounds is not None:
            _unroll(model, node, rounds)
            changed = True
    return changed


def _rounds(model: ir.Model, node: ir.Node) -> int | None:
    """Returns how often a Loop goes round, or None if that is unknown or not small."""
    body: ir.Graph = node.attributes["body"].as_graph()
    rounds = count_rounds(node, model.opset_imports.get("", 17), MAX_ROUNDS)
    # Without a round there is no scan output whose shape could be taken.
    return rounds if rounds and rounds * len(body) <= _MAX_NODES else None


def _unroll(model: ir.Model, node: ir.Node, rounds: int) -> None:
    body: ir.Graph = node.attributes["body"].as_graph()
    states: list[ir.Value | None] = list(node.inputs[2:])
    going = add_initializer(model.graph, "loop_condition", np.asarray(True))
    scans: list[list[ir.Value]] = [[] for _ in body.outputs[1 + len(states) :]]
    for number in range(rounds):
        counter = add_initializer(model.graph, "loop_round", np.asarray(number, np.int64))
        given = dict(zip(range(len(body.inputs)), (counter, going, *states), strict=True))
        copy = body.clone(allow_outer_scope_values=True)
        results = _place(model, copy, node, given)[1:]
        states = list(results[: len(states)])
        for rows, value in zip(scans, results[len(states) :], strict=True):
            rows.append(value)
    stacked = [_stack(model, rows, node) for rows in scans]
    _replace_outputs(model, node, [*states, *stacked])


def _stack(model: ir.Model, rows: list[ir.Value], before: ir.Node) -> ir.Value:
    """Lays a scan output's rows along a new first axis."""
    axis = add_initializer(model.graph, "loop_axis", np.asarray([0], np.int64))
    parts = [ir.node("Unsqueeze", [row, axis]) for row in rows]
    joined = ir.node("Concat", [part.outputs[0] for part in parts], {"axis": 0})
    before.graph.insert_before(before, [*parts, joined])  # type: ignore[union-attr]
    return joined.outputs[0]


def _place(
    model: ir.Model, graph: ir.Graph, before: ir.Node, inputs: dict[int, ir.Value | None]
) -> list[ir.Value]:
    """Moves what is in a subgraph into the main graph, and returns its outputs there.

    Args:
        model: Its graph takes the nodes.
        graph: The subgraph; it is empty afterwards.
        before: The node in front of which they go.
        inputs: What stands for each of the subgraph's inputs, by position.
    """
    outputs = list(graph.outputs)
    graph.outputs.clear()
    replaced: dict[ir.Value, ir.Value] = {}
    for index, value in enumerate(graph.inputs):
        new = inputs.get(index)
        if new is not None:
            value.replace_all_uses_with(new)
            replaced[value] = new
    for value in list(graph.initializers.values()):
        if value.const_value is not None:
            moved = add_initializer(model.graph, str(value.name), value.const_value.numpy())
            value.replace_all_uses_with(moved)
            replaced[value] = moved
    nodes = list(graph)
    graph.remove(nodes)
    taken = {value.name for value in _all_values(model.graph)}
    for value in (value for node in nodes for value in node.outputs):
        value.name = _free(str(value.name), taken)
        taken.add(value.name)
    model.graph.insert_before(before, nodes)
    return [replaced.get(value, value) for value in outputs]


def _all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _free(name: str, taken: set[str | None]) -> str:
    free, number = name, 0
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _replace_outputs(model: ir.Model, node: ir.Node, results: Sequence[ir.Value | None]) -> None:
    """Puts results in the place of a node's outputs, each behind an Identity.

    A result may be an input of the graph, a constant, or stand for two outputs.
    """
    for output, result in zip(node.outputs, results, strict=True):
        identity = ir.node("Identity", [result])
        model.graph.insert_before(node, identity)
        replace_value(output, identity.outputs[0])
    model.graph.remove(node, safe=True)
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            _detach(attr.as_graph())


def _detach(graph: ir.Graph) -> None:
    """Lets go of outer values: else they would count as used by what is no longer there."""
    for node in graph.all_nodes():
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
