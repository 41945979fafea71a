"""Where a graph is quantized: which values pass through int8, and which of them share a scale.

The rules follow what the integer kernels of ONNX Runtime, OpenVINO and TFLite have in common,
because one graph serves all three:

- An operator with an integer kernel reads int8 and writes int8.
- A Relu, or a Clip to 0..6, right behind an operator that runtimes fuse it with has no value of
  its own: only its output is quantized.
- Operators that only move values (Reshape, Transpose) or pick among them (MaxPool) keep the scale
  of their input, so that they work on the codes. Concat does the same for all that it joins, and
  AveragePool too, because TFLite's kernel has one scale for both sides.
- All else stays float, Softmax and Sigmoid among it. A final Softmax reads the dequantized
  logits and writes float.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import attribute, constant, only_consumer

KERNEL_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul"})
_ACTIVATIONS = frozenset({"Relu", "Clip"})
_REDUCTIONS = frozenset({"GlobalAveragePool", "ReduceMean"})
_SAME_SCALE = frozenset(
    {
        "AveragePool", "Concat", "Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Slice",
        "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip


def quantized_groups(graph: ir.Graph) -> tuple[tuple[str, ...], ...]:
    """Find the values to quantize, in groups that share one scale and zero point.

    Args:
        graph: A float graph with inferred types. It is only read.

    Returns:
        Names of values: graph inputs, or outputs of nodes; each name once. The groups, and the
        names in them, are in the order of the graph.
    """
    values = _quantized_values(graph)
    leader = {value: value for value in values}
    for node in graph:
        if _keeps_scale(node) and node.outputs[0] in values:
            _join(leader, [*_activation_inputs(node), node.outputs[0]])
    groups: dict[ir.Value, list[str]] = {}
    for value in values:
        groups.setdefault(_find(leader, value), []).append(_name(value))
    return tuple(tuple(names) for names in groups.values())


def has_integer_kernel(node: ir.Node) -> bool:
    """Tell whether a node multiplies an activation by constant float32 weights."""
    if node.op_type not in KERNEL_OPERATORS or node.domain:
        return False
    weights = constant(node.inputs[1])
    return weights is not None and weights.dtype == np.float32 and _is_activation(node.inputs[0])


def is_fused_activation(node: ir.Node) -> bool:
    """Tell whether a node is a Relu or Clip that runtimes fuse into the operator before it."""
    source = node.inputs[0] if node.inputs else None
    producer = None if source is None else source.producer()
    if producer is None or not _computes_in_int8(producer):
        return False
    return _fused_activation(producer) is node


def _quantized_values(graph: ir.Graph) -> list[ir.Value]:
    """List the values to quantize: inputs of the graph first, then outputs in node order."""
    wanted = {value for node in graph for value in _ends(node)}
    movers = [node for node in graph if _keeps_scale(node)]
    # Int8 spreads along the movers both ways: forward to keep the codes, backward so that the
    # Transpose between a graph's input and its first convolution already moves int8.
    before = -1
    while before != len(wanted):
        before = len(wanted)
        for node in movers:
            values = {*_activation_inputs(node), node.outputs[0]}
            if wanted & values:
                wanted |= values
    ordered = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return [value for value in ordered if value in wanted]


def _ends(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the activations that a node with an integer kernel reads and writes."""
    if not _computes_in_int8(node) or is_fused_activation(node):
        return
    yield from _activation_inputs(node)
    output = node.outputs[0]
    activation = _fused_activation(node)
    yield output if activation is None else activation.outputs[0]


def _computes_in_int8(node: ir.Node) -> bool:
    if node.domain:
        return False
    if node.op_type in KERNEL_OPERATORS:
        return has_integer_kernel(node)
    if node.op_type in _ELEMENTWISE:
        return all(_is_activation(value) for value in node.inputs)
    return node.op_type in _ACTIVATIONS | _REDUCTIONS and _is_activation(node.inputs[0])


def _keeps_scale(node: ir.Node) -> bool:
    if node.domain or node.op_type not in _SAME_SCALE:
        return False
    if node.op_type == "Concat":
        return all(_is_activation(value) for value in node.inputs)
    if node.op_type == "Pad" and not _pads_with_a_code(node):
        return False
    return _is_activation(node.inputs[0]) and _is_activation(node.outputs[0])


def _pads_with_a_code(node: ir.Node) -> bool:
    """Tell whether padding adds only values that the input's scale can hold for sure."""
    if attribute(node, "mode", "constant") != "constant":
        return True
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    filler = constant(fill)
    return fill is None or (filler is not None and not filler.any())


def _activation_inputs(node: ir.Node) -> list[ir.Value]:
    operands = node.inputs if node.op_type in _ELEMENTWISE | {"Concat"} else node.inputs[:1]
    return [value for value in operands if value is not None]


def _is_activation(value: ir.Value | None) -> bool:
    """Tell whether a value is float32 and depends on the graph's inputs."""
    if value is None or value.dtype != ir.DataType.FLOAT:
        return False
    return constant(value) is None


def _fused_activation(node: ir.Node) -> ir.Node | None:
    """Give the Relu or Clip that runtimes fuse into a node, if one follows."""
    if node.op_type not in KERNEL_OPERATORS | _ELEMENTWISE:
        return None
    follower = only_consumer(node.outputs[0])
    return follower if follower is not None and _clips_like_a_kernel(follower) else None


def _clips_like_a_kernel(node: ir.Node) -> bool:
    """Tell whether a node is a Relu or a Clip to 0..6, which int8 kernels have built in."""
    if node.domain or node.op_type not in _ACTIVATIONS:
        return False
    if node.op_type == "Relu":
        return True
    bounds = [constant(value) for value in node.inputs[1:]]
    return len(bounds) == 2 and all(
        bound is not None and bound.item() == wanted
        for bound, wanted in zip(bounds, (0, 6), strict=True)
    )


def _join(leader: dict[ir.Value, ir.Value], values: list[ir.Value]) -> None:
    first = _find(leader, values[0])
    for value in values[1:]:
        leader[_find(leader, value)] = first


def _find(leader: dict[ir.Value, ir.Value], value: ir.Value) -> ir.Value:
    while leader[value] is not value:
        value = leader[value]
    return value


def _name(value: ir.Value) -> str:
    assert value.name is not None, "a loaded model names every value"
    return value.name
