"""How often a Loop goes round, worked out by running what its condition depends on.

TensorFlow's loops count in states of their own and compare them each round, so that the number is
seen only by doing so. Where counting needs nothing but constants, it is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from trimtab.graph.access import Array, constant


def count_rounds(node: ir.Node, opset: int, most: int) -> int | None:
    """Returns how often a Loop goes round, or None if that is unknown or more than `most`."""
    body: ir.Graph = node.attributes["body"].as_graph()
    limit = constant(node.inputs[0])
    start = node.inputs[1] if len(node.inputs) > 1 else None
    going = np.asarray(True) if start is None else constant(start)
    if going is None or (node.inputs[0] is not None and limit is None):
        return None
    counting = _counting(node, body)
    if counting is None:
        return None
    last = most + 1 if limit is None else min(int(limit.item()), most + 1)
    rounds = 0
    while rounds < last and np.all(going):
        going = counting.step(rounds, going, opset)
        rounds += 1
    return rounds if rounds <= most else None


@dataclass
class _Counting:
    """The part of a body that its condition depends on, and the values of this round.

    Attributes:
        body: The Loop's body.
        nodes: Those that the condition needs, in order.
        states: Positions among the body's inputs of the states that it needs.
        values: What is known by name: constants, and the states of this round.
    """

    body: ir.Graph
    nodes: list[ir.Node]
    states: list[int]
    values: dict[str, Array]

    def step(self, number: int, going: Array, opset: int) -> Array:
        """Runs one round and returns whether the Loop goes on."""
        known = dict(self.values)
        known[str(self.body.inputs[0].name)] = np.asarray(number, np.int64)
        known[str(self.body.inputs[1].name)] = going
        known.update(_run(self.nodes, known, opset))
        for position in self.states:
            result = self.body.outputs[position - 1]
            self.values[str(self.body.inputs[position].name)] = known[str(result.name)]
        return known[str(self.body.outputs[0].name)]


def _counting(node: ir.Node, body: ir.Graph) -> _Counting | None:
    """Returns what the condition depends on, or None if that is more than constants."""
    needed: set[ir.Node] = set()
    states: list[int] = []
    values: dict[str, Array] = {}
    inputs = {value: index for index, value in enumerate(body.inputs)}
    pending: list[ir.Value | None] = [body.outputs[0]]
    seen: set[ir.Value] = set()
    while pending:
        value = pending.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        producer, position = value.producer(), inputs.get(value)
        if producer is not None and producer.graph is body:
            needed.add(producer)
            pending.extend(producer.inputs)
        elif position is not None:
            if position < 2:
                continue
            states.append(position)
            pending.append(body.outputs[position - 1])
            values[str(value.name)] = _array(node.inputs[position])
        else:
            values[str(value.name)] = _array(value)
    known = all(array is not None for array in values.values())
    nodes = [inner for inner in body if inner in needed]
    plain = not any(_carries_graph(inner) or inner.domain for inner in nodes)
    return _Counting(body, nodes, states, values) if known and plain else None


def _array(value: ir.Value | None) -> Any:
    return constant(value)


def _carries_graph(node: ir.Node) -> bool:
    return any(attr.type == ir.AttributeType.GRAPH for attr in node.attributes.values())


def _run(nodes: list[ir.Node], known: dict[str, Array], opset: int) -> dict[str, Array]:
    """Runs nodes by ONNX's reference evaluator, and returns all that they make."""
    if not nodes:
        return {}
    made = [str(value.name) for node in nodes for value in node.outputs]
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "counting",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in known],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in made],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))
    return dict(zip(made, evaluator.run(None, known), strict=True))
