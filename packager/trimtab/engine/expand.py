"""Writes operators that TFLite has no kernel for as some that it has.

Only files need this: TensorFlow, in which training runs, has all of these.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.graph.access import add_initializer, replace_value

Operand = ir.Value | float


class _Writer:
    """Adds nodes in front of one, which they replace."""

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self._graph, self._node = model.graph, node
        self._numbers: dict[float, ir.Value] = {}

    def __call__(self, operator: str, *operands: Operand) -> ir.Value:
        """Returns the result of an operator; numbers become float32 constants."""
        inputs = [item if isinstance(item, ir.Value) else self._number(item) for item in operands]
        node = ir.node(operator, inputs)
        self._graph.insert_before(self._node, node)
        value: ir.Value = node.outputs[0]
        return value

    def _number(self, number: float) -> ir.Value:
        if number not in self._numbers:
            name = f"{self._node.outputs[0].name}.number"
            self._numbers[number] = add_initializer(self._graph, name, np.array(number, np.float32))
        return self._numbers[number]


def _erf(w: _Writer, x: ir.Value) -> ir.Value:
    """Within 1.5e-7 (Abramowitz and Stegun 1964, formula 7.1.26)."""
    size = w("Abs", x)
    t = w("Div", 1.0, w("Add", w("Mul", size, 0.3275911), 1.0))
    polynomial = w("Mul", t, 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        polynomial = w("Mul", w("Add", polynomial, coefficient), t)
    tail = w("Mul", polynomial, w("Exp", w("Neg", w("Mul", x, x))))
    return w("Mul", w("Sign", x), w("Sub", 1.0, tail))


def _tan(w: _Writer, x: ir.Value) -> ir.Value:
    return w("Div", w("Sin", x), w("Cos", x))


def _hyperbolic(w: _Writer, x: ir.Value, sign: str) -> ir.Value:
    return w("Mul", w(sign, w("Exp", x), w("Exp", w("Neg", x))), 0.5)


def _sinh(w: _Writer, x: ir.Value) -> ir.Value:
    return _hyperbolic(w, x, "Sub")


def _cosh(w: _Writer, x: ir.Value) -> ir.Value:
    return _hyperbolic(w, x, "Add")


def _asinh(w: _Writer, x: ir.Value) -> ir.Value:
    """Of the size of x, whose sign comes back: for negative x the logarithm loses its digits."""
    size = w("Abs", x)
    root = w("Sqrt", w("Add", w("Mul", x, x), 1.0))
    return w("Mul", w("Sign", x), w("Log", w("Add", size, root)))


def _acosh(w: _Writer, x: ir.Value) -> ir.Value:
    return w("Log", w("Add", x, w("Sqrt", w("Sub", w("Mul", x, x), 1.0))))


def _atanh(w: _Writer, x: ir.Value) -> ir.Value:
    return w("Mul", w("Log", w("Div", w("Add", x, 1.0), w("Sub", 1.0, x))), 0.5)


EXPANSIONS: dict[str, Callable[[_Writer, ir.Value], ir.Value]] = {
    "Erf": _erf,
    "Tan": _tan,
    "Sinh": _sinh,
    "Cosh": _cosh,
    "Asinh": _asinh,
    "Acosh": _acosh,
    "Atanh": _atanh,
}
"""How each operator is written; all are of one float32 input."""


def expand(model: ir.Model) -> ir.Model:
    """Returns a copy of `model` without the operators of `EXPANSIONS` in float32."""
    model = model.clone()
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if node.op_type not in EXPANSIONS or source is None or not _is_float32(source):
            continue
        result = EXPANSIONS[node.op_type](_Writer(model, node), source)
        output = node.outputs[0]
        result.shape, result.type = output.shape, output.type
        replace_value(output, result)
    common.RemoveUnusedNodesPass()(model)
    return model


def _is_float32(value: ir.Value) -> bool:
    return value.dtype in (None, ir.DataType.FLOAT)
