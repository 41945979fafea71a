"""Names that people can read: they are shown as layer names in logs and tables.

    sequential_1/conv1d_1/convolution/ExpandDims_1:0  ->  conv1d_1.weight

A layer is called what its weight is called (`layer1.conv1.weight`, as PyTorch exports it), else
what its node is called without the operator at the end (`conv1d_1/convolution`, as TensorFlow
does it). Its weights take its name, and what it computes does too. Inputs and outputs of the
graph keep theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

_ROLES = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {1: "weight", 2: "bias"},
    "MatMul": {0: "weight", 1: "weight"},
    "PRelu": {1: "slope"},
    "GRU": {1: "weight", 2: "recurrent_weight", 3: "bias"},
    "LSTM": {1: "weight", 2: "recurrent_weight", 3: "bias"},
    "RNN": {1: "weight", 2: "recurrent_weight", 3: "bias"},
}

_OPERATORS = frozenset(schema.name for schema in onnx.defs.get_all_schemas())

_TENSORFLOW_STEPS = frozenset(
    {
        *("BiasAdd", "Conv1D", "Conv2D", "DepthwiseConv2dNative", "ExpandDims", "FusedBatchNormV3"),
        *("AvgPool", "AvgPool2d", "AvgPool1d", "MaxPool1d", "MaxPool2d", "Mean", "ReadVariableOp"),
        *("Relu6", "add", "batchnorm", "convolution", "depthwise", "mul", "strided_slice", "sub"),
        *("transpose", "separable_conv2d", "separable_conv1d"),
    }
)
"""What TensorFlow and Keras call the steps inside a layer; ONNX's operators come on top."""

_Uses = dict[ir.Value, tuple[ir.Node, int]]


def tidy_names(model: ir.Model) -> None:
    """Renames nodes, initializers and inner values, in place."""
    graph = model.graph
    first_uses = _first_uses(graph)
    _name_nodes(list(graph), first_uses)
    inner = [value for node in graph for value in node.outputs if not value.is_graph_output()]
    constants = [value for value in graph.initializers.values() if not value.is_graph_output()]
    kept = {str(value.name) for value in (*graph.inputs, *graph.outputs, *_nested(graph))}
    # Out of the way first: a new name may be the old one of another value.
    wished = [_constant_name(value, first_uses) for value in constants]
    wished += [_inner_name(value) for value in inner]
    for number, value in enumerate((*constants, *inner)):
        value.name = f"__renamed_{number}"
    for value, name in zip((*constants, *inner), wished, strict=True):
        producer = value.producer()
        longer = f"{name}/{producer.op_type}" if producer is not None and name in kept else name
        value.name = _free(longer, kept)
        kept.add(value.name)


def _nested(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yields what has a name inside control flow, where no outer value may have the same."""
    for inner in graph.subgraphs():
        if inner is not graph:
            yield from inner.inputs
            yield from inner.initializers.values()
            for node in inner:
                yield from node.outputs


def _first_uses(graph: ir.Graph) -> _Uses:
    """Returns, for every value, the first node in graph order that takes it, and as which input."""
    uses: _Uses = {}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None:
                uses.setdefault(value, (node, index))
    return uses


def _name_nodes(nodes: list[ir.Node], first_uses: _Uses) -> None:
    """Gives layers their name, and the other nodes what is left of the names."""
    taken: set[str] = set()
    layers = [node for node in nodes if _weight_of(node) is not None]
    others = [node for node in nodes if _weight_of(node) is None]
    numbers = {node: index for index, node in enumerate(nodes)}
    for node in (*layers, *others):
        name = _name_by_weight(node, first_uses) or _name_by_path(node.name or "")
        name = name or f"{node.op_type}_{numbers[node]}"
        if name in taken:
            name = f"{name}/{node.op_type}"
        node.name = _free(name, taken)
        taken.add(node.name)


def _weight_of(node: ir.Node) -> ir.Value | None:
    """Returns the initializer that a layer multiplies with."""
    for index, role in _ROLES.get(node.op_type, {}).items():
        value = node.inputs[index] if index < len(node.inputs) else None
        if role == "weight" and value is not None and value.is_initializer():
            return value
    return None


def _name_by_weight(node: ir.Node, first_uses: _Uses) -> str:
    """Returns the name of the layer whose weight a node is the first to use, or nothing."""
    weight = _weight_of(node)
    if weight is None or first_uses[weight][0] is not node:
        return ""
    name = str(weight.name)
    return name.removesuffix(".weight") if name.endswith(".weight") else ""


def _name_by_path(path: str) -> str:
    """Returns the name of the layer that an exporter's name for a node is below, or nothing."""
    parts = [part for part in re.sub(r"(:\d+|__\d+)+$", "", path).split("/") if part]
    while len(parts) > 1 and _is_step(parts[-1], _OPERATORS | _TENSORFLOW_STEPS):
        parts.pop()
    # A lone operator is a node that an exporter made up; a lone `add_1` may be a layer.
    lone = len(parts) == 1 and _is_step(parts[0], _OPERATORS)
    return "" if lone else "/".join(parts)


def _is_step(part: str, steps: frozenset[str]) -> bool:
    """Says whether part of a name is an operator's, perhaps numbered: `Relu`, `mul_1`."""
    return part in steps or re.sub(r"(_\d+|__\d+)+$", "", part) in steps


def _inner_name(value: ir.Value) -> str:
    producer, index = value.producer(), value.index()
    name = str(producer.name) if producer is not None else ""
    return f"{name}_{index}" if index else name


def _constant_name(value: ir.Value, first_uses: _Uses) -> str:
    if value not in first_uses:
        return str(value.name)
    node, index = first_uses[value]
    return f"{node.name}.{_role(node, index)}"


def _role(node: ir.Node, index: int) -> str:
    """Returns what an operator's input is called: `weight`, `axes`, `constant`."""
    if index in _ROLES.get(node.op_type, {}):
        return _ROLES[node.op_type][index]
    try:
        formal = onnx.defs.get_schema(node.op_type, node.version or 17, node.domain).inputs
    except onnx.defs.SchemaError:
        return "constant"  # an operator of somebody else's
    # Operands without a role of their own are called A and B, or stand in one list.
    name = formal[index].name if index < len(formal) else ""
    return name if len(name) > 1 and name.islower() else "constant"


def _free(name: str, taken: Iterable[str]) -> str:
    """Returns `name`, with a number if it is taken."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
