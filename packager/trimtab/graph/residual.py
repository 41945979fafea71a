"""Residual blocks: what lies between a value and the addition that adds it back.

A block whose result has the shape of what it adds to can be left out: the rest of the graph gets
its input instead (Huang et al. 2016, "Deep Networks with Stochastic Depth", leave blocks out while
training; Sanh et al. 2019, arXiv:1910.01108, leave out every other layer of BERT for good).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.graph.access import constant, infer_shapes, only_consumer, replace_value, shape_of

_IDEMPOTENT = frozenset({"Relu", "LayerNormalization"})
"""Behind an addition of something that comes from the same operator, these go with the block: a
second Relu does nothing, and a second norm little but scale once more."""


_LAYERS = frozenset({"Conv", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
_WITH_LAYERS = frozenset(
    {"Add", "BatchNormalization", "LayerNormalization", "Mul", "Reshape", "Squeeze", "Transpose"}
    | {"Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Selu"}
    | {"Sigmoid", "Softplus", "Tanh"}
)
"""What may stand between a layer and the next one: its bias, its norm, its activation."""


@dataclass(frozen=True)
class Block:
    """A block that can be left out.

    Attributes:
        skip: What goes around it.
        end: What takes its place.
        operators: Those between, in order: blocks of one kind have the same.
    """

    skip: ir.Value
    end: ir.Value
    operators: tuple[str, ...]


def residual_blocks(model: ir.Model) -> list[Block]:
    """Returns the blocks that can be left out, in the graph's order."""
    return [block for node in model.graph if (block := _block(node)) is not None]


def even_layers(model: ir.Model) -> list[Block]:
    """Returns the layers, with their activations, that change no shape, in the graph's order.

    Where nothing goes around them, such as in a stack of recurrent layers, leaving one out changes
    more than leaving out a residual block; training must make up for it.
    """
    return [layer for node in model.graph if (layer := _even_layer(node)) is not None]


def units(blocks: Sequence[Block]) -> list[list[Block]]:
    """Puts blocks that repeat together into units: attention and feed-forward of one layer.

    Returns:
        The blocks in runs of the shortest period with which their operators repeat.
    """
    kinds = [block.operators for block in blocks]
    for period in range(1, len(blocks) + 1):
        if len(blocks) % period == 0 and kinds[period:] == kinds[:-period]:
            return [list(blocks[start : start + period]) for start in range(0, len(blocks), period)]
    return []


def remove_blocks(model: ir.Model, blocks: Sequence[Block]) -> None:
    """Leaves blocks of this model out, in place."""
    moved: dict[ir.Value, ir.Value] = {}
    for block in blocks:
        skip = block.skip
        while skip in moved:  # the block before it is gone as well
            skip = moved[skip]
        replace_value(block.end, skip)
        moved[block.end] = skip
    common.RemoveUnusedNodesPass()(model)
    infer_shapes(model)


def _block(node: ir.Node) -> Block | None:
    if node.op_type != "Add" or any(constant(value) is not None for value in node.inputs):
        return None
    first, second = node.inputs
    for skip, branch in ((first, second), (second, first)):
        if skip is None or branch is None or shape_of(skip) != shape_of(node.outputs[0]):
            continue
        between = _between(skip, branch)
        if between:
            return Block(skip, _end(node, skip), tuple(sorted(n.op_type for n in between)))
    return None


def _even_layer(node: ir.Node) -> Block | None:
    skip = node.inputs[0] if node.inputs else None
    if node.op_type not in _LAYERS or skip is None or len(node.inputs) < 2:
        return None
    if constant(node.inputs[1]) is None or skip.producer() is None:
        return None  # the first layer makes features of inputs
    end, operators = node.outputs[0], [node.op_type]
    while (following := only_consumer(end)) is not None and _goes_along(following, end):
        end = following.outputs[0]
        operators.append(following.op_type)
    alike = shape_of(skip) == shape_of(end) and shape_of(end) is not None
    used_alone = not any(output.uses() for output in node.outputs[1:])
    return Block(skip, end, tuple(operators)) if alike and used_alone else None


def _goes_along(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node belongs to the layer before it: it reads nothing else that is computed."""
    others = [v for v in node.inputs if v is not None and v is not value]
    return node.op_type in _WITH_LAYERS and all(constant(v) is not None for v in others)


def _between(skip: ir.Value, branch: ir.Value) -> list[ir.Node]:
    """Returns the nodes on the way from `skip` to `branch`; none if there is no way."""
    reached: dict[ir.Value, bool] = {skip: True}
    nodes: list[ir.Node] = []
    stack = [branch]
    while stack:
        value = stack[-1]
        producer = value.producer()
        if value in reached or producer is None:
            reached.setdefault(value, False)
            stack.pop()
            continue
        sources = [source for source in producer.inputs if source is not None]
        if waiting := [source for source in sources if source not in reached]:
            stack.extend(waiting)
            continue
        on_the_way = any(reached[source] for source in sources)
        for output in producer.outputs:
            reached[output] = on_the_way
        if on_the_way:
            nodes.append(producer)
        stack.pop()
    return nodes if reached[branch] and branch is not skip else []


def _end(add: ir.Node, skip: ir.Value) -> ir.Value:
    """Returns the addition's result, or that of a norm or activation that goes with it."""
    following = only_consumer(add.outputs[0])
    source = skip.producer()
    if following is None or source is None or following.op_type not in _IDEMPOTENT:
        return add.outputs[0]
    return following.outputs[0] if source.op_type == following.op_type else add.outputs[0]
