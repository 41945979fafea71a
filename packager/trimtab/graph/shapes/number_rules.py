"""Integers that are computed from shapes, as formulas.

numpy does the work: its `object` arrays gather, join and multiply formulas as they do numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import attribute, integers
from trimtab.graph.shapes.formulas import Formulas, NumberRule, Numbers
from trimtab.graph.shapes.lengths import Length, divided


def _array(items: Any) -> Numbers:
    """Returns formulas as an array; numpy would look into them otherwise."""
    result = np.empty(len(items), object)
    result[:] = items
    return result


def _shape(node: ir.Node, known: Formulas) -> Numbers | None:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return None
    return _array(shape[attribute(node, "start", 0) : attribute(node, "end", len(shape))])


def _gather(node: ir.Node, known: Formulas) -> Numbers | None:
    source, places = known.of(node.inputs[0]), known.integers(node.inputs[1])
    if source is None or places is None or source.ndim != 1:
        return None
    if not all(-source.size <= place < source.size for place in places):
        return None
    shape = known.numbers[node.inputs[1]].shape if node.inputs[1] is not None else ()
    return _array([source[place] for place in places]).reshape(shape)


def _slice(node: ir.Node, known: Formulas) -> Numbers | None:
    source = known.of(node.inputs[0])
    bounds = [known.integers(value) for value in node.inputs[1:]]
    if source is None or source.ndim != 1 or any(bound is None for bound in bounds):
        return None
    start, end = (bound[0] for bound in bounds[:2] if bound)
    step = bounds[3][0] if len(bounds) > 3 and bounds[3] else 1
    last = None if step < 0 and end < -source.size else end
    return source[start:last:step]


def _concat(node: ir.Node, known: Formulas) -> Numbers | None:
    parts = [numbers for value in node.inputs if (numbers := known.of(value)) is not None]
    if len(parts) != len(node.inputs) or any(part.ndim != 1 for part in parts):
        return None
    return np.concatenate(parts)


def _as_it_is(node: ir.Node, known: Formulas) -> Numbers | None:
    return known.of(node.inputs[0])


def _cast(node: ir.Node, known: Formulas) -> Numbers | None:
    target = ir.DataType(attribute(node, "to", ir.DataType.INT64))
    return known.of(node.inputs[0]) if target.is_integer() else None


def _reshape(node: ir.Node, known: Formulas) -> Numbers | None:
    source, target = known.of(node.inputs[0]), known.integers(node.inputs[1])
    return None if source is None or target is None else source.reshape(target)


def _unsqueeze(node: ir.Node, known: Formulas) -> Numbers | None:
    source, axes = known.of(node.inputs[0]), integers(node, 1, "axes")
    return None if source is None or axes is None else np.expand_dims(source, tuple(axes))


def _squeeze(node: ir.Node, known: Formulas) -> Numbers | None:
    source, axes = known.of(node.inputs[0]), integers(node, 1, "axes")
    return None if source is None else source.squeeze(axes)


def _arithmetic(function: Callable[[Any, Any], Any]) -> NumberRule:
    """Returns the rule of an operator on two operands; None of a pair leaves it unknown."""

    def rule(node: ir.Node, known: Formulas) -> Numbers | None:
        left, right = known.of(node.inputs[0]), known.of(node.inputs[1])
        if left is None or right is None:
            return None
        pairs = np.broadcast(left, right)
        results = [function(one, other) for one, other in pairs]
        if any(result is None for result in results):
            return None
        return _array(results).reshape(pairs.shape)

    return rule


def _divide(one: Any, other: Any) -> Any:
    if isinstance(one, int) and isinstance(other, int):
        return one // other if other > 0 and one >= 0 else None
    exact = divided(one, other)
    # What does not come out even is a length of its own, the same wherever it is worked out.
    return Length.free(f"({one})/({other})") if exact is None else exact


def _equal(one: Any, other: Any) -> int | None:
    if one == other:
        return 1
    if isinstance(one, int) and isinstance(other, int):
        return 0
    difference = [(one, other), (other, one)]
    # A length is never negative: it cannot be -1.
    apart = any(isinstance(a, Length) and a.is_length and b == -1 for a, b in difference)
    return 0 if apart else None


def _where(node: ir.Node, known: Formulas) -> Numbers | None:
    condition = known.integers(node.inputs[0])
    chosen, other = known.of(node.inputs[1]), known.of(node.inputs[2])
    if condition is None or chosen is None or other is None or chosen.ndim > 1:
        return None
    flags = np.asarray(condition, bool)
    return np.where(flags if chosen.ndim else flags.reshape(()), chosen, other)


def _product(node: ir.Node, known: Formulas) -> Numbers | None:
    source = known.of(node.inputs[0])
    if source is None or source.ndim != 1:
        return None
    total: Any = 1
    for number in source:
        total = total * number
    return _array([total]).reshape((1,) if attribute(node, "keepdims", 1) else ())


def _filled(node: ir.Node, known: Formulas) -> Numbers | None:
    target = known.integers(node.inputs[0])
    fill = attribute(node, "value", None)
    array = None if fill is None else fill.numpy()
    if target is None or array is None or array.dtype.kind not in "iu":
        return None
    return np.full(target, int(array.reshape(-1)[0]), object)


NUMBER_RULES: dict[str, NumberRule] = {
    "Add": _arithmetic(lambda one, other: one + other),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _arithmetic(_divide),
    "Equal": _arithmetic(_equal),
    "Gather": _gather,
    "Identity": _as_it_is,
    "Mul": _arithmetic(lambda one, other: one * other),
    "ReduceProd": _product,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(lambda one, other: one - other),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
