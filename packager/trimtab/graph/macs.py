"""Multiply-accumulates of single nodes, for a batch of one."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir

from trimtab.graph.access import attribute, infer_shapes, shape_of
from trimtab.graph.shapes import Formulas, Length, free_length

BATCH = "batch"
"""What loading calls the free first dimension of inputs and outputs."""

TAKEN_KEY = "trimtab.taken"
"""Where an If says how often its `then_branch` was measured to run, as a share of samples."""

_STEPS, _PIXELS = 128, 224
"""Lengths to count with where a model leaves them free: of a sequence, and of an image's sides."""

Shape = tuple[int | None, ...]


class SampleShapes:
    """Shapes of a graph's values for one sample; None stands for what stays unknown.

    Args:
        graph: The graph.
        lengths: Numbers for free dimensions other than the batch, by name.
    """

    def __init__(self, graph: ir.Graph, lengths: Mapping[str, int]) -> None:
        self._formulas = Formulas(graph)
        self._lengths = {**lengths, BATCH: 1}

    def of(self, value: ir.Value | None) -> Shape | None:
        """Returns the shape of a value, also of one inside control flow."""
        lengths = self._formulas.shape(value)
        if lengths is not None:
            return tuple(self._number(length) for length in lengths)
        # Inside a branch only names are known. There too it is axis 0 that counts the samples.
        shape = shape_of(value)
        return None if shape is None else tuple(1 if i == 0 else d for i, d in enumerate(shape))

    def _number(self, length: Length | int) -> int | None:
        if isinstance(length, int):
            return length
        total = 0
        for product, factor in length.terms:
            known = [self._lengths.get(name) for name in product]
            if None in known:
                return None
            total += factor * prod(number for number in known if number is not None)
        return total


def free_lengths(model: ir.Model) -> dict[str, int]:
    """Returns numbers to count with for free dimensions of the inputs, without the batch."""
    lengths: dict[str, int] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                name = free_length(value, axis).terms[0][0][0]
                is_image = value.shape is not None and len(value.shape) > 3
                lengths.setdefault(name, _PIXELS if is_image else _STEPS)
    lengths.pop(BATCH, None)
    return lengths


def with_lengths(model: ir.Model, lengths: Mapping[str, int]) -> ir.Model:
    """Returns a copy for one sample in which free dimensions of the inputs are numbers."""
    result = model.clone()
    for value in result.graph.inputs:
        dims = [
            dim if isinstance(dim, int) else lengths.get(free_length(value, axis).terms[0][0][0], 1)
            for axis, dim in enumerate(value.shape or ())
        ]
        value.shape = None if value.shape is None else ir.Shape(dims)
    infer_shapes(result)
    return result


def multiplies(node: ir.Node) -> bool:
    """Says whether a node does multiply-accumulates, itself or in a graph that it carries."""
    if node.op_type in _MACS and node.op_type != "If":
        return True
    graphs = [attr for attr in node.attributes.values() if attr.type == ir.AttributeType.GRAPH]
    return any(multiplies(inner) for attr in graphs for inner in attr.as_graph())


def macs(node: ir.Node, shapes: SampleShapes) -> int | None:
    """Returns a node's multiply-accumulates, None where shapes or rounds are unknown."""
    count = _MACS.get(node.op_type)
    return None if count is None else count(node, shapes)


def _elements(shape: Shape | None) -> int | None:
    known = [dim for dim in shape or () if dim is not None]
    return prod(known) if shape is not None and len(known) == len(shape) else None


def _conv(node: ir.Node, shapes: SampleShapes) -> int | None:
    # W is [out, in / group, *kernel]: every output element sums over all but the first axis.
    window = _elements((shapes.of(node.inputs[1]) or (None, None))[1:])
    elements = _elements(shapes.of(node.outputs[0]))
    return None if window is None or elements is None else elements * window


def _conv_transpose(node: ir.Node, shapes: SampleShapes) -> int | None:
    # W is [in, out / group, *kernel]: every input element goes to all but the first axis.
    window = _elements((shapes.of(node.inputs[1]) or (None, None))[1:])
    elements = _elements(shapes.of(node.inputs[0]))
    return None if window is None or elements is None else elements * window


def _matmul(node: ir.Node, shapes: SampleShapes) -> int | None:
    left, elements = shapes.of(node.inputs[0]), _elements(shapes.of(node.outputs[0]))
    if not left or elements is None:
        return None
    transposed = node.op_type == "Gemm" and attribute(node, "transA", 0)
    inner = left[0] if transposed else left[-1]
    return None if inner is None else elements * inner


def _recurrent(node: ir.Node, shapes: SampleShapes) -> int | None:
    # W is [directions, gates * hidden, in], R [directions, gates * hidden, hidden]: each step
    # multiplies with all of both. X is [steps, batch, in], or [batch, steps, in] in layout 1.
    data, *weights = (shapes.of(value) for value in node.inputs[:3])
    sizes = [size for weight in weights if (size := _elements(weight)) is not None]
    steps = _elements(data[:2]) if data else None
    return None if steps is None or len(sizes) < 2 else steps * sum(sizes)


def _if(node: ir.Node, shapes: SampleShapes) -> int | None:
    """Counts the branch that costs more or, where it was measured, the average."""
    totals = []
    for name in ("then_branch", "else_branch"):
        inside = [
            macs(inner, shapes) for inner in node.attributes[name].as_graph() if multiplies(inner)
        ]
        known = [count for count in inside if count is not None]
        if len(known) < len(inside):
            return None
        totals.append(sum(known))
    if TAKEN_KEY not in node.metadata_props:
        return max(totals)
    taken = float(node.metadata_props[TAKEN_KEY])
    return round(taken * totals[0] + (1 - taken) * totals[1])


_MACS = {
    "If": _if,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _matmul,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
}
