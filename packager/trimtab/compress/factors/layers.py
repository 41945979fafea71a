"""The layers that can be factorized, with what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.access import attribute, constant, held, shape_of

Array = NDArray[Any]
Kind = Literal["dense", "conv", "transposed", "table", "recurrent"]
_RECURRENT = ("LSTM", "GRU", "RNN")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_WEIGHT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "Gather": 0} | dict.fromkeys(
    _RECURRENT, 1
)
"""Which input of an operator is its weight."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with one weight of its own.

    Attributes:
        node: The node.
        kind: What it is. Of recurrent layers it is the product with their input: the one with their
            state has no place for a second factor in ONNX' operators.
        weight: Float. Shape (in, out) for a dense and a recurrent layer, (rows, width) for a table,
            (out, in / groups, *kernel) for a convolution. A transposed convolution is the adjoint
            of the one with the same weight, so its axes are (in, out / groups, *kernel).
        before: Lengths that the work runs over before the kernel is applied: the input's spatial
            axes; for a transposed convolution the output's. Other layers have one, the rows that
            they multiply; 1 where it is free.
        after: The same lengths in the output.
        groups: Of a convolution.
    """

    node: ir.Node
    kind: Kind
    weight: Array
    before: tuple[int, ...]
    after: tuple[int, ...]
    groups: int = 1

    @property
    def name(self) -> str:
        """The weight's name, by which messages and reports call the layer."""
        value = self.node.inputs[_WEIGHT[self.node.op_type]]
        return "" if value is None else str(value.name)

    @property
    def is_convolution(self) -> bool:
        """Whether it has a kernel, transposed or not."""
        return self.kind in ("conv", "transposed")

    @property
    def kernel(self) -> tuple[int, ...]:
        """Lengths of a convolution's kernel; empty for other layers."""
        return tuple(self.weight.shape[2:]) if self.is_convolution else ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates for a batch of one."""
        return 0 if self.kind == "table" else int(self.weight.size) * prod(self.after)

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Of the weight of each group."""
        made, *rest = self.weight.shape
        return (made // self.groups, *rest)

    def parts(self) -> Iterator[Layer]:
        """Each group of a convolution as a layer of its own; others as they are."""
        for weight in np.split(self.weight, self.groups):
            yield replace(self, weight=weight, groups=1)


def find_layers(model: ir.Model) -> tuple[list[Layer], dict[str, str]]:
    """Find what can be factorized.

    Returns:
        The layers in graph order, and for every other one with a constant weight, by the weight's
        name, why it cannot be.
    """
    layers, refused = [], {}
    for node in model.graph:
        place = _WEIGHT.get(node.op_type)
        if place is None or len(node.inputs) <= place or node.domain not in ("", "ai.onnx"):
            continue
        value = node.inputs[place]
        weight = constant(value)
        if value is None or weight is None or weight.dtype.kind != "f":
            continue
        if node.op_type == "Gather" and (weight.ndim != 2 or attribute(node, "axis", 0) != 0):
            continue  # no table of vectors
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
    if node.op_type in _CONVOLUTIONS:
        return _convolution_refusal(node, weight)
    if node.op_type in _RECURRENT:
        return None
    if weight.ndim != 2:
        return f"its weight has {weight.ndim} axes"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "it multiplies a transposed input"
    scales = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0))
    return None if scales == (1.0, 1.0) else "it scales its product"


def _convolution_refusal(node: ir.Node, weight: Array) -> str | None:
    if attribute(node, "group", 1) > 1 and weight.shape[1] == 1:
        return "it is depthwise: each channel has one small kernel, and nothing to share"
    if "output_shape" in node.attributes:
        return "its pads follow from the shape of its output"
    return None


def _layer(node: ir.Node, weight: Array) -> Layer:
    if node.op_type in _CONVOLUTIONS:
        return _convolution(node, weight)
    if node.op_type in _RECURRENT:
        # (directions, gates * hidden, in): all directions read the same input.
        matrix = weight.reshape(-1, weight.shape[-1]).T
        steps = (shape_of(node.inputs[0]) or (None,))[attribute(node, "layout", 0)]
        return _rows(node, "recurrent", matrix, steps or 1)
    if node.op_type == "Gather":
        looked_up = shape_of(node.inputs[1]) or ()
        return _rows(node, "table", weight, prod(size or 1 for size in looked_up[1:]))
    matrix = weight.T if attribute(node, "transB", 0) else weight
    shape = shape_of(node.inputs[0]) or ()
    return _rows(node, "dense", matrix, prod(size or 1 for size in shape[1:-1]))


def _rows(node: ir.Node, kind: Kind, matrix: Array, count: int) -> Layer:
    weight = np.asarray(matrix)
    return Layer(node=node, kind=kind, weight=weight, before=(count,), after=(count,))


def _convolution(node: ir.Node, weight: Array) -> Layer:
    rank = weight.ndim - 2
    lengths = [_spatial(value, rank) for value in (node.inputs[0], node.outputs[0])]
    transposed = node.op_type == "ConvTranspose"
    before, after = reversed(lengths) if transposed else lengths
    return Layer(
        node=node,
        kind="transposed" if transposed else "conv",
        weight=weight,
        before=before,
        after=after,
        groups=int(attribute(node, "group", 1)),
    )


def _spatial(value: ir.Value | None, rank: int) -> tuple[int, ...]:
    shape = shape_of(value)
    return (1,) * rank if shape is None else tuple(size or 1 for size in shape[2:])
