"""The walk over a graph that works out its labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

# The rules register themselves when their modules are imported.
from trimtab.graph.dependencies import (  # noqa: F401
    rules_elementwise,
    rules_layout,
    rules_linear,
    rules_products,
    rules_recurrent,
    rules_reshape,
)
from trimtab.graph.dependencies.atoms import LabelArray
from trimtab.graph.dependencies.groups import Dependencies, collect
from trimtab.graph.dependencies.labels import Labels, dimensions, frozen
from trimtab.graph.dependencies.rules import RULES
from trimtab.graph.shapes import Formulas


def analyse(model: ir.Model, *, across_norms: bool = False) -> Dependencies:
    """Find what can be cut from a model.

    Args:
        model: A float model whose values have names and shapes, with constants as initializers
            and nodes in topological order, as `load_model` returns it. Where a shape is unknown,
            or a node is not understood, everything around it is kept.
        across_norms: Let single features go that a layer norm works on, such as those of the
            residual stream of a transformer. The norm's mean then is over fewer of them, so that
            what is left does not compute the same as with zeros in their place.
    """
    labels = Labels(
        model.opset_imports.get("", 0), Formulas(model.graph), across_norms=across_norms
    )
    for value in model.graph.inputs:
        if value.shape is not None:
            labels.set_activation(value, frozen(len(value.shape)))
    opaque: set[str] = set()
    for node in model.graph:
        labels.atoms.cause = (
            f"{node.name or node.op_type} ({node.op_type}) ties them to what is kept"
        )
        outputs = _apply_rule(node, labels)
        if outputs is None:
            opaque.add(node.op_type)
            labels.atoms.cause = _not_understood(node)
            outputs = _keep_all_around(node, labels)
        for value, array in zip(node.outputs, outputs, strict=True):
            if value.name:  # an output that is left out has none
                labels.set_activation(value, array)
    labels.atoms.cause = "they are an output of the model"
    for value in model.graph.outputs:
        labels.freeze(value)
    return collect(labels, tuple(sorted(opaque)))


def _apply_rule(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Return the labels of the node's outputs, None where the node is not understood."""
    rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    values = [value for value in (*node.outputs, *node.inputs) if value is not None and value.name]
    if rule is None or any(value.shape is None for value in values):
        return None
    outputs = rule(node, labels)
    if outputs is None:
        return None
    pairs = zip(node.outputs, outputs, strict=True)
    fits = all(len(dimensions(value)) == array.ndim for value, array in pairs if value.name)
    return outputs if fits else None


def _not_understood(node: ir.Node) -> str:
    name = _called(node)
    if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return f"{name} reads or makes them, and what is inside it is left as it is"
    if node.op_type in RULES and not node.domain:
        return f"what {name} does with them depends on the data or on lengths that are unknown"
    return f"pruning does not understand {name}, which reads or makes them"


def _called(node: ir.Node) -> str:
    return f"{node.name or node.op_type} ({node.op_type})"


def _keep_all_around(node: ir.Node, labels: Labels) -> list[LabelArray]:
    for value in _read_by(node):
        labels.freeze(value)
    return [frozen(0 if value.shape is None else len(value.shape)) for value in node.outputs]


def _read_by(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, also from inside the graphs that it carries (If, Loop, Scan)."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
            inner = attribute.as_graph()
            yield from inner.outputs
            for each in ir.traversal.RecursiveGraphIterator(inner):
                yield from (value for value in each.inputs if value is not None)
