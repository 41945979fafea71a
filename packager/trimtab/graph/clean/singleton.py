"""1-D convolutions unwrapped: `Squeeze(Conv2D(Unsqueeze(x)))` becomes a convolution of x.

TensorFlow has no 1-D kernels: a Conv1D arrives as an Unsqueeze, a 2-D convolution with a kernel
of height 1 and a Squeeze. An Unsqueeze is pushed through what follows, towards the outputs,
until it meets the Squeeze that undoes it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import (
    add_initializer,
    attribute,
    constant,
    integers,
    rank_of,
    replace_value,
    shape_of,
)

_UNARY = {
    "Relu",
    "Clip",
    "Sigmoid",
    "Tanh",
    "LeakyRelu",
    "Elu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "Neg",
    "Abs",
    "Exp",
    "Sqrt",
    "Erf",
    "Softplus",
}
_BINARY = {"Add", "Sub", "Mul", "Div"}
_SPATIAL = {"Conv", "MaxPool", "AveragePool"}


def sink_unsqueeze(model: ir.Model) -> bool:
    """Moves every Unsqueeze of one axis behind the node that uses it, where that is possible."""
    changed = False
    for node in list(model.graph):
        axis = _unsqueezed_axis(node.inputs[0]) if node.inputs else None
        move = _MOVES.get(node.op_type)
        if axis is not None and move is not None and len(node.outputs) == 1:
            changed |= move(model, node, axis)
    return changed


def cancel_squeezes(model: ir.Model) -> bool:
    """Removes a Squeeze that undoes the Unsqueeze before it."""
    changed = False
    for node in list(model.graph):
        if node.op_type != "Squeeze" or node.inputs[0] is None:
            continue
        axis = _unsqueezed_axis(node.inputs[0])
        axes = integers(node, 1, "axes")
        rank = rank_of(node.inputs[0])
        if axis is None or axes is None or rank is None:
            continue
        if tuple(item % rank for item in axes) != (axis,):
            continue
        producer = node.inputs[0].producer()
        source = producer.inputs[0] if producer else None
        if source is None or (
            node.outputs[0].is_graph_output()
            and (source.is_graph_input() or source.is_graph_output())
        ):
            continue
        replace_value(node.outputs[0], source)
        model.graph.remove(node, safe=True)
        changed = True
    return changed


def _unsqueezed_axis(value: ir.Value | None) -> int | None:
    """Returns the one axis that an Unsqueeze has just added to `value`, or None."""
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "Unsqueeze":
        return None
    axes, rank = integers(producer, 1, "axes"), rank_of(value)
    return axes[0] % rank if axes is not None and len(axes) == 1 and rank else None


def _source(value: ir.Value) -> ir.Value:
    producer = value.producer()
    if producer is None or producer.inputs[0] is None:
        raise TypeError("an Unsqueeze has an input")
    return producer.inputs[0]


def _replace(model: ir.Model, node: ir.Node, lowered: ir.Node, axis: int) -> bool:
    """Puts `lowered`, which lacks the axis, and an Unsqueeze in the place of `node`."""
    graph = model.graph
    lowered.name = node.name
    axes = add_initializer(graph, "unsqueeze_axes", np.asarray([axis], np.int64))
    restore = ir.node("Unsqueeze", [lowered.outputs[0], axes])
    graph.insert_before(node, [lowered, restore])
    replace_value(node.outputs[0], restore.outputs[0])
    graph.remove(node, safe=True)
    return True


def _through_transpose(model: ir.Model, node: ir.Node, axis: int) -> bool:
    perm = attribute(node, "perm", None)
    if perm is None or node.inputs[0] is None:
        return False
    position = list(perm).index(axis)
    rest = [item - (item > axis) for item in perm if item != axis]
    lowered = ir.node("Transpose", [_source(node.inputs[0])], {"perm": rest})
    return _replace(model, node, lowered, position)


def _through_unary(model: ir.Model, node: ir.Node, axis: int) -> bool:
    if node.inputs[0] is None:
        return False
    lowered = ir.node(node.op_type, [_source(node.inputs[0]), *node.inputs[1:]], _plain(node))
    return _replace(model, node, lowered, axis)


def _through_binary(model: ir.Model, node: ir.Node, axis: int) -> bool:
    left, right = node.inputs
    if left is None or right is None:
        return False
    if _unsqueezed_axis(right) == axis and rank_of(right) == rank_of(left):
        other = _source(right)
    else:
        array = constant(right)
        if (
            array is None
            or (array.ndim > axis and array.shape[axis] != 1)
            or (array.ndim not in (0, 1, rank_of(left)))
        ):
            return False
        if array.ndim == 1 and axis == (rank_of(left) or 0) - 1 and array.shape[0] != 1:
            return False
        other = right
        if array.ndim == rank_of(left):
            other = add_initializer(model.graph, f"{right.name}_squeezed", array.squeeze(axis))
    return _replace(model, node, ir.node(node.op_type, [_source(left), other]), axis)


def _through_spatial(model: ir.Model, node: ir.Node, axis: int) -> bool:
    """Turns a 2-D convolution or pooling with kernel height 1 into a 1-D one."""
    data = node.inputs[0]
    if data is None or axis != 2 or rank_of(data) != 4 or not _ignores_height(node):
        return False
    inputs: list[ir.Value | None] = [_source(data)]
    if node.op_type == "Conv":
        weight = node.inputs[1]
        array = constant(weight)
        if weight is None or array is None or array.shape[2] != 1:
            return False
        inputs.append(add_initializer(model.graph, f"{weight.name}_1d", array[:, :, 0, :]))
        inputs.extend(node.inputs[2:])
    lowered = ir.node(node.op_type, inputs, _without_height(node))
    return _replace(model, node, lowered, axis)


def _ignores_height(node: ir.Node) -> bool:
    kernel = attribute(node, "kernel_shape", None)
    if kernel is None and node.op_type == "Conv":
        weight = shape_of(node.inputs[1])
        kernel = weight[2:] if weight is not None else None
    pads = attribute(node, "pads", (0, 0, 0, 0))
    return (
        kernel is not None
        and len(kernel) == 2
        and kernel[0] == 1
        and pads[0] == pads[2] == 0
        and attribute(node, "storage_order", 0) == 0
    )


def _without_height(node: ir.Node) -> dict[str, object]:
    """Returns the attributes of a 2-D operator for its 1-D form."""
    result = _plain(node)
    for name in ("kernel_shape", "strides", "dilations"):
        if name in result:
            result[name] = [list(attribute(node, name, ()))[1]]
    if "pads" in result:
        _, left, _, right = attribute(node, "pads", ())
        result["pads"] = [left, right]
    return result


def _plain(node: ir.Node) -> dict[str, object]:
    return {name: attr.value for name, attr in node.attributes.items()}


_Move = Callable[[ir.Model, ir.Node, int], bool]
_MOVES: dict[str, _Move] = {
    "Transpose": _through_transpose,
    **dict.fromkeys(_UNARY, _through_unary),
    **dict.fromkeys(_BINARY, _through_binary),
    **dict.fromkeys(_SPATIAL, _through_spatial),
}
