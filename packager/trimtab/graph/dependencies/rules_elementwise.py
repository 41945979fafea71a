"""Rules of operators that work on each element apart, with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import constant
from trimtab.graph.dependencies.atoms import LabelArray
from trimtab.graph.dependencies.labels import (
    Labels,
    dimensions,
    frozen,
    is_parameter,
    varying_axes,
)
from trimtab.graph.dependencies.rules import data, rule


@rule(
    *("Abs", "Ceil", "Celu", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal"),
    *("Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish"),
    *("Tanh", "ThresholdedRelu", "Cast", "IsNaN", "Not", "Shrink", "Sinh", "Cosh", "Tan", "Atan"),
)
def unary(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Pass the labels on; other inputs (the bounds of Clip, the ratio of Dropout) are scalars."""
    for value in node.inputs[1:]:
        if value is not None and dimensions(value) not in ((), (1,)):
            return None
    return [labels.of(data(node))] * len(node.outputs)


@rule("Softmax", "LogSoftmax", "LpNormalization")
def softmax(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Tie what the sum runs over; before operator set 13 a Softmax sums over several axes."""
    if labels.opset < 13 and node.op_type != "LpNormalization":
        return None
    source = labels.of(data(node))
    axis = node.attributes.get_int("axis", -1)
    summed = [axis] if source.shape[axis] > 1 else []
    return [labels.tie_because(source, summed, f"{node.name} normalises them together")]


@rule(
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu", "Mod", "Where"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"),
)
def broadcasting(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Tie the operands element by element.

    An operand of length 1 along an axis on which another one's atoms change has elements that
    many atoms share. It is kept, and so are the axes that it has in common with the others.
    """
    operands = [value for value in node.inputs if value is not None]
    rank = max(len(dimensions(value)) for value in operands)
    activations = [value for value in operands if not is_parameter(value)]
    widening = [value for value in operands if _widens(value, activations, rank)]
    data_like = [*activations, *widening]
    sources = {id(v): _aligned(labels.of(v), rank) for v in activations}
    sources |= {id(v): _aligned(labels.of_constant(v), rank) for v in widening}
    varying = {axis for source in sources.values() for axis in varying_axes(source)}

    result: LabelArray | None = None
    kept_axes: set[int] = set()
    for value in data_like:
        sizes = _sizes(value, rank)
        if any(sizes[axis] == 1 for axis in varying):
            labels.freeze(value)
            kept_axes |= {axis for axis in varying if sizes[axis] != 1}
        else:
            result = _tied(labels, result, sources[id(value)])
    if result is None:
        result = frozen(rank)
    result = labels.tie_along(result, sorted(kept_axes & set(varying_axes(result))))
    for value in operands:
        if is_parameter(value) and value not in widening:
            result = attach_constant(value, result, labels)
    return [result]


def _widens(value: ir.Value, activations: Sequence[ir.Value], rank: int) -> bool:
    """Say whether a constant alone has the axis that is its longest, as a mask for each head."""
    if not is_parameter(value) or not activations:
        return False
    sizes = [size or 1 for size in _sizes(value, rank)]
    if max(sizes, default=1) == 1:
        return False
    axis = int(np.argmax(sizes))
    return all(_sizes(other, rank)[axis] == 1 for other in activations)


def _sizes(value: ir.Value, rank: int) -> tuple[int | None, ...]:
    return (1,) * (rank - len(dimensions(value))) + dimensions(value)


def attach_constant(value: ir.Value, result: LabelArray, labels: Labels) -> LabelArray:
    """Let a constant operand lose what the result of a broadcasting operator loses.

    Args:
        value: An initializer of at most the result's rank.
        result: The labels of the result.
        labels: Where ties and the constant's own atoms are recorded.

    Returns:
        The labels of the result, tied where the constant cannot follow it.
    """
    array = constant(value)
    assert array is not None
    offset = result.ndim - array.ndim
    sizes = (1,) * offset + array.shape
    varying = varying_axes(result)
    own = sorted((axis for axis in varying if sizes[axis] != 1), key=sizes.__getitem__)
    # A constant loses slices along one axis; along none, if the result may shrink where the
    # constant is broadcast, for one and the same element would be both kept and dropped.
    followed = [] if len(own) < len(varying) else own[-1:]
    result = labels.tie_along(result, [axis for axis in own if axis not in followed])
    labels.set_parameter(value, {axis - offset: result.reshape(-1) for axis in followed})
    return result


def _aligned(source: LabelArray, rank: int) -> LabelArray:
    return source.reshape((1,) * (rank - source.ndim) + source.shape)


def _tied(labels: Labels, result: LabelArray | None, source: LabelArray) -> LabelArray:
    if result is None:
        return source
    labels.atoms.tie(result, source)
    return np.broadcast_arrays(result, source)[0]
