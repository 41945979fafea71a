"""Layers that a recipe names: by node, weight or operator, with `*` and `?`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import onnx_ir as ir

from trimtab.compress.weights import Weight
from trimtab.errors import RecipeError
from trimtab.graph.access import constant

_Named = TypeVar("_Named", ir.Node, Weight)

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
    return _matching({node: _names(node) for node in graph}, patterns, what)


def matching_weights(
    weights: Sequence[Weight], patterns: Sequence[str], what: str
) -> frozenset[Weight]:
    """Find the weights that a list of patterns names.

    Args:
        weights: Those to choose from.
        patterns: Each matches a weight's name, or the name or operator of a node that reads it.
        what: The parameter that they come from.

    Raises:
        RecipeError: A pattern matches nothing; the message has the nearest names.
    """
    names: dict[Weight, list[str]] = {}
    for weight in weights:
        readers = [use.node for use in weight.value.uses()]
        own = [weight.name, *(name for node in readers for name in (node.name, node.op_type))]
        names[weight] = [name for name in own if name]
    return _matching(names, patterns, what)


def _matching(
    names: Mapping[_Named, Sequence[str]], patterns: Sequence[str], what: str
) -> frozenset[_Named]:
    found: set[_Named] = set()
    for pattern in patterns:
        matched = {
            each for each, own in names.items() if any(fnmatchcase(name, pattern) for name in own)
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
