"""Shapes that exporters compute at run time become constants where they are known."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import add_initializer, constant, replace_value
from trimtab.graph.clean.input_lengths import from_inputs
from trimtab.graph.shapes import Formulas, Length, Lengths
from trimtab.graph.shapes.shape_rules import ELEMENTWISE, UNARY

_DEPTH = 8
"""Between a mask and the scores that it is for lie a few operators."""

_COMPUTED = frozenset({"Shape", "Size", "ConstantOfShape", "Reshape", "Expand"})


def fold_shapes(model: ir.Model) -> bool:
    """Makes constants of integers that are computed from shapes, and of Reshape's targets.

    Keras' Flatten arrives as Shape, Gather, Cast, Slice, Concat and Cast around a Reshape to
    `[batch, 1568]`; what they compute is `[-1, 1568]`. A Reshape or Expand that is proved to
    change nothing goes.
    """
    if not any(node.op_type in _COMPUTED for node in model.graph):
        return False
    known = Formulas(model.graph)
    changed = False
    for node in list(model.graph):
        if _fold_numbers(model, node, known) or _drop_unchanging(model, node, known):
            changed = True
        elif node.op_type == "Expand" and _shorten_target(model, node, known):
            return True  # two that supply each other's lengths may not both become shorter
        elif node.op_type == "Reshape":
            changed |= _fix_target(model, node, known) or _skip_inner(model, node, known)
    return changed


def _fold_numbers(model: ir.Model, node: ir.Node, known: Formulas) -> bool:
    """Puts a constant in the place of integers that are all known."""
    output = node.outputs[0]
    numbers, dtype = known.integers(output), output.dtype
    if numbers is None or dtype is None or len(node.outputs) > 1 or not output.uses():
        return False
    array = np.asarray(numbers).reshape(known.numbers[output].shape).astype(dtype.numpy())
    replace_value(output, add_initializer(model.graph, "shape_folded", array))
    model.graph.remove(node, safe=True)
    return True


def _drop_unchanging(model: ir.Model, node: ir.Node, known: Formulas) -> bool:
    source, output = node.inputs[0] if node.inputs else None, node.outputs[0]
    if node.op_type not in ("Reshape", "Expand") or source is None:
        return False
    before, after = known.shape(source), known.shape(output)
    if before is None or before != after:
        return False
    if output.is_graph_output() and (source.is_graph_input() or source.is_graph_output()):
        return False
    replace_value(output, source)
    model.graph.remove(node, safe=True)
    return True


def _shorten_target(model: ir.Model, node: ir.Node, known: Formulas) -> bool:
    """Asks an Expand for nothing that is there anyway, and reads the rest from inputs.

    A length stays as it is where it is 1 in the target, or where every reader broadcasts to it by
    another operand. So nothing inside the graph is asked for its shape, and channels can go there.
    """
    source, target = known.shape(node.inputs[0]), known.of(node.inputs[1])
    if source is None or target is None or target.size < len(source):
        return False
    own = (1,) * (target.size - len(source)) + tuple(source)
    supplied = _supplied_axes(node, known, target.size)
    asked = [
        1 if axis in supplied or wanted == own[axis] else wanted
        for axis, wanted in enumerate(target.flat)
    ]
    if asked == list(target.flat) or not all(isinstance(length, int) for length in asked):
        return from_inputs(model, node, 1, asked)
    made = add_initializer(model.graph, "expand_target", np.asarray(asked, np.int64))
    node.replace_input_with(1, made)
    return True


def _supplied_axes(node: ir.Node, known: Formulas, rank: int) -> set[int]:
    """Returns the axes of an Expand whose length all readers have from another operand too."""
    return {
        rank - back for back in range(1, rank + 1) if _is_supplied(node.outputs[0], back, known)
    }


def _is_supplied(value: ir.Value, back: int, known: Formulas, depth: int = 0) -> bool:
    """Says whether nobody needs a value's length along an axis.

    Args:
        value: What may be shorter.
        back: The axis, counted from the end, from 1.
        known: Lengths.
        depth: How many operators were followed so far.
    """
    uses = list(value.uses())
    if value.is_graph_output() or not uses or depth > _DEPTH:
        return False
    return all(_reader_has_it(use.node, value, back, known, depth) for use in uses)


def _reader_has_it(
    reader: ir.Node, value: ir.Value, back: int, known: Formulas, depth: int
) -> bool:
    if reader.graph is not value.graph or reader.op_type not in ELEMENTWISE | UNARY:
        return False
    result = known.shape(reader.outputs[0])
    others = (known.shape(other) for other in reader.inputs if other is not value)
    for other in others:
        if result and other is not None and back <= len(other) and other[-back] == result[-back]:
            return True
    return _is_supplied(reader.outputs[0], back, known, depth + 1)


def _fix_target(model: ir.Model, node: ir.Node, known: Formulas) -> bool:
    if constant(node.inputs[1]) is not None:
        return False
    wanted = known.shape(node.outputs[0])
    target = static_target(known.shape(node.inputs[0]), wanted)
    if target is None:
        return wanted is not None and from_inputs(model, node, 1, wanted)
    node.replace_input_with(1, add_initializer(model.graph, "reshape_target", target))
    node.attributes.pop("allowzero", None)
    return True


def _skip_inner(model: ir.Model, node: ir.Node, known: Formulas) -> bool:
    """Lets a Reshape of a Reshape read what the first one reads."""
    inner = node.inputs[0].producer() if node.inputs[0] is not None else None
    if inner is None or inner.op_type != "Reshape" or constant(node.inputs[1]) is None:
        return False
    target = static_target(known.shape(inner.inputs[0]), known.shape(node.outputs[0]))
    if target is None:
        return False
    node.replace_input_with(0, inner.inputs[0])
    node.replace_input_with(1, add_initializer(model.graph, "reshape_target", target))
    node.attributes.pop("allowzero", None)
    return True


def static_target(source: Lengths | None, wanted: Lengths | None) -> np.ndarray | None:
    """Returns a Reshape's target without computed lengths, or None where there is none.

    One free length may be -1, what is left; another must be copied from the same axis, by 0.

    Args:
        source: Shape of what is reshaped.
        wanted: The shape that it is to get.
    """
    if source is None or wanted is None or 0 in wanted:
        return None
    free = [axis for axis, length in enumerate(wanted) if isinstance(length, Length)]
    copied = [axis for axis in free if axis < len(source) and source[axis] == wanted[axis]]
    others = [axis for axis in free if axis not in copied]
    if len(others) > 1:
        return None
    rest = (others or copied)[:1]
    return np.asarray(
        [
            -1 if axis in rest else 0 if isinstance(length, Length) else length
            for axis, length in enumerate(wanted)
        ],
        np.int64,
    )
