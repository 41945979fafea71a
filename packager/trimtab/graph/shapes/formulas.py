"""Shapes as formulas of the free dimensions, and the integers that are computed from them.

Exporters write `x.view(x.size(0), x.size(1), 4, 8)` as a Shape, two Gathers, a Concat and a
Reshape. ONNX's shape inference knows the name of a free dimension but does not reckon with it:
behind `batch * 4` every length is unknown. Here lengths are formulas (`lengths`), worked out node
by node, and so are the integers of tensors such as that Concat's. The rules of single operators
are in `shape_rules` and `number_rules`; what has none keeps what shape inference says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.access import constant
from trimtab.graph.shapes.lengths import Length

Lengths = tuple[Length | int, ...]
Numbers = NDArray[Any]
"""An integer tensor of formulas, as numpy's `object`."""

_MOST_NUMBERS = 64
"""Integers that describe shapes are few; longer tensors are tables and indices."""


class Formulas:
    """What is known of a graph's lengths.

    Attributes:
        shapes: Of every value of known rank, its lengths.
        numbers: Of integer tensors that hold lengths, their content.
    """

    def __init__(self, graph: ir.Graph) -> None:
        from trimtab.graph.shapes.number_rules import NUMBER_RULES
        from trimtab.graph.shapes.shape_rules import SHAPE_RULES

        self.shapes: dict[ir.Value, Lengths] = {}
        self.numbers: dict[ir.Value, Numbers] = {}
        self._shape_rules: dict[str, ShapeRule] = SHAPE_RULES
        self._number_rules: dict[str, NumberRule] = NUMBER_RULES
        for value in (*graph.inputs, *graph.initializers.values()):
            self._take_inferred(value, None)
            self._take_constant(value)
        for node in graph:
            self._visit(node)

    def shape(self, value: ir.Value | None) -> Lengths | None:
        """Returns a value's lengths, None where not even its rank is known."""
        return None if value is None else self.shapes.get(value)

    def of(self, value: ir.Value | None) -> Numbers | None:
        """Returns the integers that a value holds, or None."""
        return None if value is None else self.numbers.get(value)

    def integers(self, value: ir.Value | None) -> list[int] | None:
        """Returns the integers that a value holds where all are plain numbers, or None."""
        numbers = self.of(value)
        if numbers is None or any(isinstance(number, Length) for number in numbers.flat):
            return None
        return [int(number) for number in numbers.flat]

    def _visit(self, node: ir.Node) -> None:
        standard = node.domain in ("", "ai.onnx")
        rule = self._shape_rules.get(node.op_type) if standard else None
        shapes = rule(node, self) if rule is not None else None
        for index, output in enumerate(node.outputs):
            self._take_inferred(output, shapes[index] if shapes else None)
        count = self._number_rules.get(node.op_type) if standard else None
        numbers = count(node, self) if count is not None else None
        if numbers is not None and numbers.size <= _MOST_NUMBERS:
            self.numbers[node.outputs[0]] = numbers

    def _take_inferred(self, value: ir.Value, formulas: Lengths | None) -> None:
        """Takes what shape inference says, and a formula for each length that it leaves free."""
        if value.shape is None or (formulas is not None and len(formulas) != len(value.shape)):
            if formulas is not None and value.shape is None:
                self.shapes[value] = formulas
            return
        lengths: list[Length | int] = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int):
                lengths.append(dim)
            elif formulas is not None:
                lengths.append(formulas[axis])
            else:
                lengths.append(free_length(value, axis))
        self.shapes[value] = tuple(lengths)

    def _take_constant(self, value: ir.Value) -> None:
        if value.const_value is None or value.const_value.size > _MOST_NUMBERS:
            return
        array = constant(value)
        if array is not None and array.dtype.kind in "iub":
            self.numbers[value] = array.astype(np.int64).astype(object)


def name_lengths(model: ir.Model) -> None:
    """Writes formulas into the inner values' shapes, such as `4*batch`, in place.

    The names are what people read in a graph, and what else shape inference makes up for each free
    length anew.
    """
    known = Formulas(model.graph)
    for node in model.graph:
        for value in node.outputs:
            lengths = known.shape(value)
            if lengths is not None and not value.is_graph_output():
                value.shape = ir.Shape([n if isinstance(n, int) else str(n) for n in lengths])


def free_length(value: ir.Value, axis: int) -> Length:
    """Returns the formula of a free dimension: its name, or its place where it has none."""
    name = getattr(value.shape[axis], "value", None) if value.shape is not None else None
    return Length.free(str(name) if name else f"{value.name}[{axis}]")


ShapeRule = Callable[[ir.Node, Formulas], "list[Lengths] | None"]
NumberRule = Callable[[ir.Node, Formulas], "Numbers | None"]
