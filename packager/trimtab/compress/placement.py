"""Where a graph is quantized: which values pass through int8, and which of them share a scale.

The rules follow what the integer kernels of ONNX Runtime, OpenVINO and TFLite have in common,
because one graph serves all three:

- An operator with an integer kernel reads int8 and writes int8.
- A Relu, or a Clip to 0..6, right behind an operator that runtimes fuse it with has no value of
  its own: only its output is quantized. Behind an operator that stays float it stays float too.
- Operators that only move values (Reshape, Transpose) or pick among them (MaxPool) keep the scale
  of their input, so that they work on the codes. Concat does the same for all that it joins, and
  AveragePool too, because TFLite's kernel has one scale for both sides.
- Additions and the like run in int8 only where codes reach them from an operator with weights, or
  leave them for one: alone between float operators they would cost more than they save.
- All else stays float, Softmax and Sigmoid among it, and so do norms that are written out (`norms`)
  and what a recipe names. A final Softmax reads the dequantized logits and writes float. Squares
  stay float too: of a value with 8 bits, 16 would be needed to hold both ends.
- What a float operator writes is rounded for the readers that take codes, and for no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from trimtab.compress.layer_patterns import matching_nodes
from trimtab.compress.norms import norm_nodes
from trimtab.graph.access import attribute, constant, only_consumer

_T = TypeVar("_T", ir.Node, ir.Value)

KERNEL_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul"})
_ACTIVATIONS = frozenset({"Relu", "Clip"})
_REDUCTIONS = frozenset({"GlobalAveragePool", "ReduceMean"})
_SAME_SCALE = frozenset(
    {
        "AveragePool", "Concat", "Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Slice",
        "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """What of a graph runs on 8-bit codes.

    Attributes:
        kernels: Nodes whose constant weights become int8, in the order of the graph.
        computing: Nodes that compute in int8: kernels, and what has no weights.
        moving: Nodes that move or pick codes and keep their scale.
        groups: Names of the values to quantize, in groups that share one scale and zero point;
            each name once, the groups and the names in them in the order of the graph.
    """

    kernels: tuple[ir.Node, ...]
    computing: frozenset[ir.Node]
    moving: frozenset[ir.Node]
    groups: tuple[tuple[str, ...], ...]

    def takes_codes(self, node: ir.Node) -> bool:
        """Tell whether a node reads and writes codes."""
        return node in self.computing or node in self.moving

    def is_fused(self, node: ir.Node) -> bool:
        """Tell whether a node is a Relu or Clip that runtimes fuse into the operator before it."""
        producer = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
        return producer is not None and _fused_activation(producer, self.computing) is node


def place(graph: ir.Graph, keep_float: Sequence[str] = ()) -> Placement:
    """Decide what of a graph runs in int8.

    Args:
        graph: A float graph with inferred types. It is only read.
        keep_float: Patterns of layers that stay float (see `layer_patterns`).

    Raises:
        RecipeError: A pattern matches nothing.
    """
    named = matching_nodes(graph, keep_float, "keep_float") if keep_float else ()
    kept = norm_nodes(graph).union(named)
    movers = [node for node in graph if _keeps_scale(node) and node not in kept]
    capable = {node for node in graph if _has_int8_form(node) and node not in kept}
    computing = _with_kernels(graph, _behind_codes(graph, capable, movers), movers)
    moving = _on_codes(computing, movers)
    values = _quantized_values(graph, computing, moving)
    return Placement(
        kernels=tuple(n for n in graph if n in computing and n.op_type in KERNEL_OPERATORS),
        computing=computing,
        moving=moving,
        groups=_groups(graph, values, moving),
    )


def quantized_groups(
    graph: ir.Graph, keep_float: Sequence[str] = ()
) -> tuple[tuple[str, ...], ...]:
    """Find the values to quantize, in groups that share one scale (see `place`)."""
    return place(graph, keep_float).groups


def has_integer_kernel(node: ir.Node) -> bool:
    """Tell whether a node multiplies an activation by constant float32 weights."""
    if node.op_type not in KERNEL_OPERATORS or node.domain:
        return False
    weights = constant(node.inputs[1])
    return weights is not None and weights.dtype == np.float32 and _is_activation(node.inputs[0])


def _has_int8_form(node: ir.Node) -> bool:
    if node.domain:
        return False
    if node.op_type in KERNEL_OPERATORS:
        return has_integer_kernel(node)
    if node.op_type in _ELEMENTWISE:
        is_square = node.op_type == "Mul" and node.inputs[0] is node.inputs[1]
        return not is_square and all(_is_activation(value) for value in node.inputs)
    return node.op_type in _ACTIVATIONS | _REDUCTIONS and _is_activation(node.inputs[0])


def _behind_codes(
    graph: ir.Graph, capable: set[ir.Node], movers: list[ir.Node]
) -> frozenset[ir.Node]:
    """Leave out the Relus and Clips whose input is float: they would need a pair of their own."""
    computing: set[ir.Node] = set()
    writers: set[ir.Node] = set()
    for node in graph:
        follows = any(value.producer() in writers for value in _activation_inputs(node))
        if node in capable and (follows or node.op_type not in _ACTIVATIONS):
            computing.add(node)
            writers.add(node)
        elif follows and node in movers:
            writers.add(node)
    return frozenset(computing)


def _with_kernels(
    graph: ir.Graph, computing: frozenset[ir.Node], movers: list[ir.Node]
) -> frozenset[ir.Node]:
    """Leave out what no codes connect with an operator that has weights."""
    leader = {node: node for node in graph}
    linked = computing | set(movers)
    for node in linked:
        for value in _activation_inputs(node):
            producer = value.producer()
            if producer in linked:
                _join(leader, [producer, node])
    useful = {_find(leader, node) for node in computing if node.op_type in KERNEL_OPERATORS}
    return frozenset(node for node in computing if _find(leader, node) in useful)


def _on_codes(computing: frozenset[ir.Node], movers: list[ir.Node]) -> frozenset[ir.Node]:
    """Find the movers that codes reach, or whose output is read as codes.

    So the Transpose between a graph's input and its first convolution already moves int8.
    """
    moving: set[ir.Node] = set()
    before = -1
    while before != len(moving):
        before = len(moving)
        coded = computing | moving
        for node in movers:
            readers = {use.node for use in node.outputs[0].uses()}
            writers = {value.producer() for value in _activation_inputs(node)}
            if coded & (readers | writers):
                moving.add(node)
    return frozenset(moving)


def _quantized_values(
    graph: ir.Graph, computing: frozenset[ir.Node], moving: frozenset[ir.Node]
) -> list[ir.Value]:
    """List the values to quantize: inputs of the graph first, then outputs in node order."""
    wanted = {value for node in computing for value in _ends(node, computing)}
    wanted |= {value for node in moving for value in (*_activation_inputs(node), node.outputs[0])}
    ordered = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return [value for value in ordered if value in wanted]


def _groups(
    graph: ir.Graph, values: list[ir.Value], moving: frozenset[ir.Node]
) -> tuple[tuple[str, ...], ...]:
    leader = {value: value for value in values}
    for node in graph:
        if node in moving:
            _join(leader, [*_activation_inputs(node), node.outputs[0]])
    groups: dict[ir.Value, list[str]] = {}
    for value in values:
        groups.setdefault(_find(leader, value), []).append(_name(value))
    return tuple(tuple(names) for names in groups.values())


def _ends(node: ir.Node, computing: frozenset[ir.Node]) -> Iterator[ir.Value]:
    """Yield the activations that a computing node reads and writes as codes."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is not None and _fused_activation(source, computing) is node:
        return
    yield from _activation_inputs(node)
    activation = _fused_activation(node, computing)
    yield node.outputs[0] if activation is None else activation.outputs[0]


def _keeps_scale(node: ir.Node) -> bool:
    if node.domain or node.op_type not in _SAME_SCALE:
        return False
    if node.op_type == "Concat":
        return all(_is_activation(value) for value in node.inputs)
    if node.op_type == "Pad" and not _pads_with_a_code(node):
        return False
    return _is_activation(node.inputs[0]) and _is_activation(node.outputs[0])


def _pads_with_a_code(node: ir.Node) -> bool:
    """Tell whether padding adds only values that the input's scale can hold for sure."""
    if attribute(node, "mode", "constant") != "constant":
        return True
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    filler = constant(fill)
    return fill is None or (filler is not None and not filler.any())


def _activation_inputs(node: ir.Node) -> list[ir.Value]:
    operands = node.inputs if node.op_type in _ELEMENTWISE | {"Concat"} else node.inputs[:1]
    return [value for value in operands if value is not None]


def _is_activation(value: ir.Value | None) -> bool:
    """Tell whether a value is float32 and depends on the graph's inputs."""
    if value is None or value.dtype != ir.DataType.FLOAT:
        return False
    return constant(value) is None


def _fused_activation(node: ir.Node, computing: frozenset[ir.Node]) -> ir.Node | None:
    """Give the Relu or Clip that runtimes fuse into a computing node, if one follows."""
    if node not in computing or node.op_type not in KERNEL_OPERATORS | _ELEMENTWISE:
        return None
    follower = only_consumer(node.outputs[0])
    fits = follower in computing and follower is not None and _clips_like_a_kernel(follower)
    return follower if fits else None


def _clips_like_a_kernel(node: ir.Node) -> bool:
    """Tell whether a node is a Relu or a Clip to 0..6, which int8 kernels have built in."""
    if node.domain or node.op_type not in _ACTIVATIONS:
        return False
    if node.op_type == "Relu":
        return True
    bounds = [constant(value) for value in node.inputs[1:]]
    return len(bounds) == 2 and all(
        bound is not None and bound.item() == wanted
        for bound, wanted in zip(bounds, (0, 6), strict=True)
    )


def _join(leader: dict[_T, _T], members: list[_T]) -> None:
    first = _find(leader, members[0])
    for member in members[1:]:
        leader[_find(leader, member)] = first


def _find(leader: dict[_T, _T], member: _T) -> _T:
    while leader[member] is not member:
        member = leader[member]
    return member


def _name(value: ir.Value) -> str:
    assert value.name is not None, "a loaded model names every value"
    return value.name
