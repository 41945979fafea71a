"""Norms that a graph writes out, which stay float in quantized graphs.

A layer norm, a batch norm of the present batch, RMSNorm or a vector brought to length 1 computes
means, squares and a root, and `x * a + (b - mean * a)` where Keras wrote it: small differences of
large numbers. With 8 bits for each of its ten values it loses most of them, and each costs a pair.
Where `graph.clean.layer_norm` knows the pattern the norm is one float operator. What it does not
know is found here.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trimtab.graph.access import constant

_MEANS = frozenset(
    {"GlobalAveragePool", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"}
)  # fmt: skip
_ARITHMETIC = frozenset({"Add", "Div", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "Sub"})
_MOVING = frozenset({"Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def norm_nodes(graph: ir.Graph) -> frozenset[ir.Node]:
    """Find the nodes of all written-out norms: statistics of a value and what applies them to it.

    Operators that only move the value that is normalised are not among them.
    """
    found: set[ir.Node] = set()
    for root in graph:
        if root.op_type == "Sqrt" and not root.domain:
            statistics = set(_statistics(root))
            if any(node.op_type in _MEANS for node in statistics):
                found |= statistics | _applying(graph, statistics)
    return frozenset(found)


def _statistics(node: ir.Node) -> Iterator[ir.Node]:
    """Yield a root and what it is computed from, up to the value that is normalised."""
    yield node
    if node.op_type in _MEANS:
        yield from _deviations(node)
        return
    for source in _producers(node):
        if source.op_type in _MEANS | _ARITHMETIC | _MOVING:
            yield from _statistics(source)


def _deviations(mean: ir.Node) -> Iterator[ir.Node]:
    """Yield the square that a mean is taken of, and the difference that is squared."""
    for square in _producers(mean)[:1]:
        if square.op_type == "Pow" or (square.op_type == "Mul" and _is_square(square)):
            yield square
            for difference in _producers(square)[:1]:
                if difference.op_type == "Sub":
                    yield difference
                    yield from _means_before(difference)


def _means_before(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the means that a node reads, and what moves them."""
    for source in _producers(node):
        if source.op_type in _MEANS:
            yield source
        elif source.op_type in _MOVING:
            behind = list(_means_before(source))
            if behind:
                yield from [source, *behind]


def _applying(graph: ir.Graph, statistics: set[ir.Node]) -> set[ir.Node]:
    """Find what computes on statistics and on the value that they are of, and on nothing else."""
    known = {value for node in statistics for value in node.outputs}
    normalised = {
        value
        for node in statistics
        for value in node.inputs
        if value is not None and constant(value) is None
    } - known
    applying: set[ir.Node] = set()
    for node in graph:
        operands = {value for value in node.inputs if value is not None and constant(value) is None}
        if node in statistics or not operands or not operands <= known | normalised:
            continue
        if node.op_type in _MOVING and operands <= normalised:
            normalised.add(node.outputs[0])
        elif node.op_type in _ARITHMETIC | _MOVING and operands & known:
            known.add(node.outputs[0])
            applying.add(node)
    return applying


def _is_square(node: ir.Node) -> bool:
    return node.inputs[0] is node.inputs[1]


def _producers(node: ir.Node) -> list[ir.Node]:
    return [
        source
        for value in node.inputs
        if value is not None and (source := value.producer()) is not None
    ]
