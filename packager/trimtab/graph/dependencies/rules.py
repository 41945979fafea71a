"""The register of rules: how each operator hands labels from its inputs to its outputs.

A rule takes a node and the labels so far and returns the labels of the node's outputs. It ties
atoms where positions must be kept or dropped together, and records the parameters that the node
reads. It returns None where it does not know what the node does. Then, as for an operator without
a rule, everything that the node touches is kept: what is not understood is never pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from trimtab.graph.access import integers
from trimtab.graph.dependencies.atoms import LabelArray
from trimtab.graph.dependencies.labels import Labels

Rule = Callable[[ir.Node, Labels], Sequence[LabelArray] | None]

RULES: dict[str, Rule] = {}
"""By operator of the standard ONNX domain."""


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operators."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[operator] = function
        return function

    return register


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input, None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def data(node: ir.Node) -> ir.Value:
    """Return the first input, which every operator with a rule has."""
    value = node.inputs[0]
    assert value is not None
    return value


def axes_of(node: ir.Node, rank: int) -> list[int] | None:
    """Return the `axes` of a node, counted from the front.

    They are the second input or, before operator set 13 (18 for the reductions), an attribute.

    Args:
        node: A Squeeze, an Unsqueeze or a reduction.
        rank: What negative axes count back from.

    Returns:
        The axes; None where they are left out or known only at run time.
    """
    given = integers(node, 1, "axes")
    return None if given is None else [axis % rank for axis in given]
