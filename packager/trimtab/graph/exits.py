"""Exits: a graph in stages, each of which may answer, so that the rest need not run.

An exit is an ONNX `If`: where a head on an inner value is sure enough, its answer is the model's;
else the rest of the graph runs, in the other branch. Branches read values and weights of the graph
around them, so a stage is cut at no particular place and nothing is stored twice.

An `If` decides once, for all samples of a batch. Such a graph therefore takes one sample at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.access import add_initializer
from trimtab.graph.count import count_model
from trimtab.graph.macs import TAKEN_KEY

Array = NDArray[Any]


@dataclass(frozen=True)
class Head:
    """A dense layer on the mean over all positions of an inner value.

    Attributes:
        value: Name of the inner value.
        axes: Those that are averaged over.
        matrix: Weights, shape (channels, classes).
        bias: Shape (classes).
    """

    value: str
    axes: tuple[int, ...]
    matrix: Array
    bias: Array


def insert_exits(
    model: ir.Model,
    heads: Sequence[Head],
    threshold: float,
    *,
    softmax: bool,
    shares: Sequence[float] = (),
) -> None:
    """Puts exits into a graph with one output, in place, and fixes its batch to 1.

    Args:
        model: The graph.
        heads: In the order in which they are asked.
        threshold: The probability of its likeliest class from which on a head is sure.
        softmax: Whether the model answers with probabilities; else with logits.
        shares: Of samples that were measured to leave at each exit; with them, multiply-accumulates
            are counted as the average that they make.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape([1, *list(value.shape or ())[1:]])
    for place in range(len(heads) - 1, -1, -1):  # the last one first: it ends up innermost
        choice = _insert(model, heads[place], threshold, softmax=softmax)
        if shares:
            inside = 1 - sum(shares[:place])
            choice.metadata_props[TAKEN_KEY] = str(shares[place] / inside if inside > 0 else 0.0)


def prefix_macs(model: ir.Model, value: ir.Value) -> int:
    """Returns the multiply-accumulates that it takes to compute a value."""
    macs = {layer.name: layer.macs or 0 for layer in count_model(model).layers}
    return sum(macs.get(node.name or "", 0) for node in needed_for([value]))


def needed_for(values: Sequence[ir.Value]) -> set[ir.Node]:
    """Returns the nodes that values are computed by, directly or not."""
    needed: set[ir.Node] = set()
    stack = [value.producer() for value in values]
    while stack:
        node = stack.pop()
        if node is not None and node not in needed:
            needed.add(node)
            stack.extend(source.producer() for source in read_by(node))
    return needed


def read_by(node: ir.Node) -> list[ir.Value]:
    """Returns what a node reads, the branches that it carries included."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graph = attribute.as_graph()
            values.extend(value for inner in graph for value in read_by(inner))
            values.extend(graph.outputs)
    return values


def _insert(model: ir.Model, head: Head, threshold: float, *, softmax: bool) -> ir.Node:
    graph, output = model.graph, model.graph.outputs[0]
    values = {value.name: value for node in graph for value in node.outputs}
    before = needed_for([values[head.value]])
    rest = [node for node in graph if node not in before]
    graph.outputs.clear()
    graph.remove(rest)
    answer, sure = _ask(graph, values[head.value], head, threshold, softmax=softmax)
    name, shape, kind = output.name, output.shape, output.type
    output.name = f"{name}_after_{head.value}"
    leave = ir.node("Identity", [answer])
    leave.outputs[0].name = f"{name}_at_{head.value}"
    leave.outputs[0].shape, leave.outputs[0].type = shape, kind
    branches = {
        "then_branch": ir.Graph([], [leave.outputs[0]], nodes=[leave], name=f"at_{head.value}"),
        "else_branch": ir.Graph([], [output], nodes=rest, name=f"after_{head.value}"),
    }
    choice = ir.node("If", [sure], branches, name=f"exit_at_{head.value}")
    choice.outputs[0].name = name
    choice.outputs[0].shape, choice.outputs[0].type = shape, kind
    graph.append(choice)
    graph.outputs.append(choice.outputs[0])
    return choice


def _ask(
    graph: ir.Graph, value: ir.Value, head: Head, threshold: float, *, softmax: bool
) -> tuple[ir.Value, ir.Value]:
    """Appends the head; returns its answer, and whether that is sure, a scalar."""
    prefix = f"exit/{head.value}"

    def add(op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=f"{prefix}/{op_type}_{len(graph)}")
        node.outputs[0].name = node.name
        graph.append(node)
        return node.outputs[0]

    def constant(name: str, array: Array) -> ir.Value:
        return add_initializer(graph, f"{prefix}.{name}", array)

    version = graph.opset_imports.get("", 18)
    pooled = value
    if head.axes and version >= 18:
        axes = constant("axes", np.array(head.axes, np.int64))
        pooled = add("ReduceMean", [value, axes], keepdims=0)
    elif head.axes:
        pooled = add("ReduceMean", [value], axes=list(head.axes), keepdims=0)
    matrix, bias = constant("weight", head.matrix), constant("bias", head.bias)
    logits = add("Gemm", [pooled, matrix, bias])
    for made, width in zip((pooled, logits), head.matrix.shape, strict=True):
        made.shape, made.type = ir.Shape([1, width]), ir.TensorType(ir.DataType.FLOAT)
    probabilities = add("Softmax", [logits], axis=-1)
    if version >= 18:
        every = constant("all", np.array([0, 1], np.int64))
        highest = add("ReduceMax", [probabilities, every], keepdims=0)
    else:
        highest = add("ReduceMax", [probabilities], axes=[0, 1], keepdims=0)
    limit = constant("threshold", np.array(threshold, np.float32))
    sure = add("Greater", [highest, limit])
    return (probabilities if softmax else logits), sure
