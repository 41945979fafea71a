"""Layers that a recipe names: by node, weight or operator, with `*` and `?`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from trimtab.errors import RecipeError
from trimtab.graph.access import constant

_NEAR = 3
"""Names that a message suggests."""


def matching_nodes(graph: ir.Graph, patterns: Sequence[str], what: str) -> frozenset[ir.Node]:
    """Find the nodes that a list of patterns names.

    Args:
        graph: The graph; nodes of its branches and loops are not looked at.
        patterns: Each matches the name of a node, the name of a constant that it reads, or its
            operator. `*` stands for any characters, `?` for one; case matters.
        what: The parameter that they come from, such as `quantize_int8: keep_float`.

    Returns:
        The nodes that at least one pattern matches.

    Raises:
        RecipeError: A pattern matches nothing; the message has the nearest names.
    """
    names = {node: _names(node) for node in graph}
    found: set[ir.Node] = set()
    for pattern in patterns:
        matched = {
            node for node, own in names.items() if any(fnmatchcase(name, pattern) for name in own)
        }
        if not matched:
            known = sorted({name for own in names.values() for name in own})
            near = difflib.get_close_matches(pattern, known, n=_NEAR, cutoff=0.0)
            raise RecipeError(
                f"{what}: {pattern!r} matches no node, weight or operator of the model; "
                f"near: {', '.join(near) or 'there are none'}"
            )
        found |= matched
    return frozenset(found)


def _names(node: ir.Node) -> list[str]:
    weights = [str(value.name) for value in node.inputs if value is not None and _fixed(value)]
    return [name for name in (node.name, node.op_type, *weights) if name]


def _fixed(value: ir.Value) -> bool:
    return constant(value) is not None
