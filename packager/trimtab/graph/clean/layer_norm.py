"""Layer norms that exporters wrote out become one LayerNormalization.

    x - mean(x)                       PyTorch before opset 17: (x - mean) / sqrt(var + e) * s + b
    ------------------ * s + b        Keras: x * a + (b - mean * a), with a = s / sqrt(var + e)
    sqrt(var(x) + e)

Written out, each of its ten nodes costs a pass over the data where the runtime does not find the
pattern itself, and in int8 its squares and sums would be rounded one by one. LayerNormalization
works along the last axis; where tf2onnx has moved a norm of channels-last data to channels-first,
it gets transposes, of which those that undo each other go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import (
    add_initializer,
    attribute,
    constant,
    integers,
    only_consumer,
    rank_of,
    replace_value,
    shape_of,
)

_FIRST_OPSET = 17


@dataclass(frozen=True)
class _Moments:
    """What is normalised along which axis, and the values on the way."""

    source: ir.Value
    axis: int
    mean: ir.Value
    centred: ir.Value
    epsilon: float

    @property
    def width(self) -> int | None:
        """How many elements are normalised together."""
        shape = shape_of(self.source)
        return None if shape is None else shape[self.axis]


@dataclass(frozen=True)
class _Result:
    """The end of a written-out norm, with its scale and bias where it has them."""

    value: ir.Value
    scale: ir.Value | None
    bias: ir.Value | None


def fuse_layer_norms(model: ir.Model) -> bool:
    """Puts LayerNormalization in the place of nodes that compute it along one axis."""
    if model.opset_imports.get("", 0) < _FIRST_OPSET:
        return False
    changed = False
    for root in [node for node in model.graph if node.op_type == "Sqrt"]:
        moments = _moments(root)
        if moments is None:
            continue
        result = _divided(root, moments) or _scaled(root, moments)
        if result is not None:
            changed |= _fuse(model, moments, result)
    return changed


def _moments(root: ir.Node) -> _Moments | None:
    """Reads `sqrt(mean((x - mean(x))^2) + e)` backwards."""
    variance, epsilon = _with_constant(_producer(root.inputs[0]), "Add")
    squares, axis = _mean_of(variance)
    square = _producer(squares)
    if epsilon is None or epsilon.size != 1 or square is None:
        return None
    if square.op_type == "Pow":
        exponent = constant(square.inputs[1])
        is_square = exponent is not None and exponent.size == 1 and exponent.item() == 2
    else:
        is_square = square.op_type == "Mul" and square.inputs[0] is square.inputs[1]
    centred = square.inputs[0]
    difference = _producer(centred)
    if not is_square or centred is None or difference is None or difference.op_type != "Sub":
        return None
    source, mean = difference.inputs
    averaged, own_axis = _mean_of(mean)
    if source is None or mean is None or averaged is not source or axis != own_axis:
        return None
    return _Moments(source, int(axis or 0), mean, centred, float(epsilon.item()))


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _with_constant(
    node: ir.Node | None, operator: str
) -> tuple[ir.Value | None, np.ndarray | None]:
    """Returns the computed and the constant operand of a node, None for others."""
    if node is None or node.op_type != operator:
        return None, None
    left, right = node.inputs
    array = constant(right)
    return (left, array) if array is not None else (right, constant(left))


def _mean_of(value: ir.Value | None) -> tuple[ir.Value | None, int | None]:
    """Returns what a value is the mean of, along which axis, which stays with length 1."""
    node = _producer(value)
    rank = rank_of(node.inputs[0]) if node is not None else None
    if node is None or rank is None:
        return None, None
    if node.op_type == "GlobalAveragePool":  # over the axes from 2 on
        return (node.inputs[0], 2) if rank == 3 else (None, None)
    axes = integers(node, 1, "axes")
    if node.op_type != "ReduceMean" or not attribute(node, "keepdims", 1):
        return None, None
    return (node.inputs[0], axes[0] % rank) if axes and len(axes) == 1 else (None, None)


def _divided(root: ir.Node, moments: _Moments) -> _Result | None:
    """Reads on from the root: `centred / root * s + b`."""
    quotient = only_consumer(root.outputs[0])
    if quotient is None or quotient.op_type != "Div" or quotient.inputs[0] is not moments.centred:
        return None
    value, scale = _applied(quotient.outputs[0], "Mul", moments)
    value, bias = _applied(value, "Add", moments)
    return _Result(value, scale, bias)


def _applied(value: ir.Value, operator: str, moments: _Moments) -> tuple[ir.Value, ir.Value | None]:
    """Returns what a value becomes with a vector of constants applied, and the vector, if so."""
    node = only_consumer(value)
    if node is None or node.op_type != operator:
        return value, None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    return (node.outputs[0], other) if _is_vector(other, moments) else (value, None)


def _is_vector(value: ir.Value | None, moments: _Moments) -> bool:
    """Says whether a value holds one number for each of those that are normalised together."""
    array, shape = constant(value), shape_of(moments.source)
    if array is None or not shape or array.size != moments.width:
        return False
    place = moments.axis - (len(shape) - array.ndim)
    return 0 <= place < array.ndim and array.shape[place] == array.size


def _scaled(root: ir.Node, moments: _Moments) -> _Result | None:
    """Reads on from the root: `x * a + (b - mean * a)`, with `a = s / root`."""
    inverse = only_consumer(root.outputs[0])
    if inverse is None or inverse.op_type != "Reciprocal":
        return None
    factor, scale = _applied(inverse.outputs[0], "Mul", moments)
    readers = [use.node for use in factor.uses()]
    if len(readers) != 2 or factor.is_graph_output() or any(n.op_type != "Mul" for n in readers):
        return None
    readers.sort(key=lambda node: moments.source not in node.inputs)
    if moments.source not in readers[0].inputs:
        return None
    centre = next((value for value in readers[1].inputs if value is not factor), None)
    negated = _producer(centre)
    if negated is None or negated.op_type != "Neg" or negated.inputs[0] is not moments.mean:
        return None
    shift, bias = _applied(readers[1].outputs[0], "Add", moments)
    end = only_consumer(shift)
    if end is None or end.op_type != "Add" or readers[0].outputs[0] not in end.inputs:
        return None
    return _Result(end.outputs[0], scale, bias)


def _fuse(model: ir.Model, moments: _Moments, result: _Result) -> bool:
    end, dtype, rank = result.value.producer(), moments.source.dtype, rank_of(moments.source)
    if end is None or moments.width is None or dtype is None or rank is None:
        return False
    ones = np.ones(moments.width, dtype.numpy())
    vectors = [ones if result.scale is None else _flat(result.scale)]
    if result.bias is not None:
        vectors.append(_flat(result.bias))
    values = [add_initializer(model.graph, f"{end.name}_norm", array) for array in vectors]
    attributes = {"axis": -1, "epsilon": moments.epsilon}
    source, made = moments.source, list[ir.Node]()
    order = [*(axis for axis in range(rank) if axis != moments.axis), moments.axis]
    if order != list(range(rank)):
        made.append(ir.node("Transpose", [source], {"perm": order}))
        source = made[-1].outputs[0]
    made.append(ir.node("LayerNormalization", [source, *values], attributes, name=end.name))
    if order != list(range(rank)):
        back = np.argsort(order).tolist()
        made.append(ir.node("Transpose", [made[-1].outputs[0]], {"perm": back}))
    model.graph.insert_before(end, made)
    replace_value(result.value, made[-1].outputs[0])
    return True


def _flat(value: ir.Value) -> np.ndarray:
    array = constant(value)
    assert array is not None
    return array.reshape(-1)
