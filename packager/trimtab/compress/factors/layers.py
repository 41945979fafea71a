"""The layers that can be factorized: dense layers and convolutions, with what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.access import attribute, constant, held, shape_of

Array = NDArray[Any]
LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with one weight of its own.

    Attributes:
        node: The node.
        kind: What it is.
        weight: Shape (in, out) for a dense layer, (out, in, *kernel) for a convolution; float.
        before: Lengths that the work runs over before the kernel is applied: the input's spatial
            axes. A dense layer has one, the rows that it multiplies; 1 where it is free.
        after: The same lengths in the output.
    """

    node: ir.Node
    kind: Literal["dense", "conv"]
    weight: Array
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def name(self) -> str:
        """The weight's name, by which messages and reports call the layer."""
        return str(self.node.inputs[1].name) if self.node.inputs[1] is not None else ""

    @property
    def kernel(self) -> tuple[int, ...]:
        """Lengths of a convolution's kernel; empty for a dense layer."""
        return tuple(self.weight.shape[2:])

    @property
    def macs(self) -> int:
        """Multiply-accumulates for a batch of one."""
        return int(self.weight.size) * prod(self.after)


def find_layers(model: ir.Model) -> tuple[list[Layer], dict[str, str]]:
    """Find what can be factorized.

    Returns:
        The layers in graph order, and for every other dense layer or convolution with a constant
        weight, by the weight's name, why it cannot be.
    """
    layers, refused = [], {}
    for node in model.graph:
        if node.op_type not in LAYERS or len(node.inputs) < 2 or node.domain not in ("", "ai.onnx"):
            continue
        value = node.inputs[1]
        weight = constant(value)
        if value is None or weight is None or weight.dtype.kind != "f":
            continue
        if reason := _refusal(node, value, weight):
            refused[str(value.name)] = reason
        else:
            layers.append(_layer(node, weight))
    return layers, refused


def _refusal(node: ir.Node, value: ir.Value, weight: Array) -> str | None:
    """Return why a layer cannot be factorized, None where it can."""
    if len(value.uses()) > 1:
        return "several layers share its weight"
    if held(value) is not None:
        return f"its {held(value)} are held, and factors have others"
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        return f"it has {groups} groups" if groups != 1 else None
    if weight.ndim != 2:
        return f"its weight has {weight.ndim} axes"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "it multiplies a transposed input"
    scales = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0))
    return None if scales == (1.0, 1.0) else "it scales its product"


def _layer(node: ir.Node, weight: Array) -> Layer:
    if node.op_type == "Conv":
        rank = weight.ndim - 2
        return Layer(
            node=node,
            kind="conv",
            weight=weight,
            before=_spatial(node.inputs[0], rank),
            after=_spatial(node.outputs[0], rank),
        )
    matrix = weight.T if attribute(node, "transB", 0) else weight
    shape = shape_of(node.inputs[0]) or ()
    rows = (prod(size or 1 for size in shape[1:-1]),)
    return Layer(node=node, kind="dense", weight=np.asarray(matrix), before=rows, after=rows)


def _spatial(value: ir.Value | None, rank: int) -> tuple[int, ...]:
    shape = shape_of(value)
    return (1,) * rank if shape is None else tuple(size or 1 for size in shape[2:])
