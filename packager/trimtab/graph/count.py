"""Parameters and multiply-accumulates of a graph, in total and per layer.

A multiply-accumulate (MAC) is one multiplication with its addition: what convolutions and
matrix products do. Element-wise operators, pooling and activations count none, as is usual.
"""

from __future__ import annotations

from math import prod
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.access import attribute, constant, shape_of


class LayerCount(msgspec.Struct, kw_only=True, frozen=True):
    """One node that does multiply-accumulates.

    Attributes:
        name: The node's name.
        operator: Its ONNX operator.
        output_shape: None stands for a free dimension.
        parameters: Weights and bias.
        macs: For a batch of one; None when a shape is unknown.
    """

    name: str
    operator: str
    output_shape: tuple[int | None, ...] | None
    parameters: int
    macs: int | None


class ModelCount(msgspec.Struct, kw_only=True, frozen=True):
    """A whole graph.

    Attributes:
        parameters: Elements of all floating-point or quantized initializers; those that hold
            shapes, axes, scales and zero points are left out.
        nonzero_parameters: Those that are not zero. Zeros save nothing in memory or in the file,
            only on the wire.
        macs: For a batch of one, zeros multiplied like any other weight; of early exits, which
            branch an If takes, the measured average.
        weight_bytes: What the counted initializers take in memory as stored.
        layers: Those that do multiply-accumulates, in graph order.
        uncounted: Names of layers whose shapes are unknown, so that `macs` lacks them.
    """

    parameters: int
    nonzero_parameters: int
    macs: int
    weight_bytes: int
    layers: tuple[LayerCount, ...]
    uncounted: tuple[str, ...]


def count_model(model: ir.Model) -> ModelCount:
    """Counts `model`, whose shapes must have been inferred."""
    layers = [_layer(node) for node in model.graph if _multiplies(node)]
    graphs = (model.graph, *model.graph.subgraphs())
    stored = (value for graph in graphs for value in graph.initializers.values())
    weights = [value for value in stored if _is_weight(value)]
    return ModelCount(
        parameters=sum(_size(value) for value in weights),
        nonzero_parameters=sum(_nonzero(value) for value in weights),
        macs=sum(layer.macs or 0 for layer in layers),
        weight_bytes=sum(value.const_value.nbytes for value in weights if value.const_value),
        layers=tuple(layers),
        uncounted=tuple(layer.name for layer in layers if layer.macs is None),
    )


_QUANTIZATION = {"QuantizeLinear", "DequantizeLinear"}


def _is_weight(value: ir.Value) -> bool:
    """Says whether an initializer is a weight, not a shape, a scale or a zero point."""
    if value.const_value is None or not value.uses():
        return False
    uses = list(value.uses())
    if all(use.node.op_type in _QUANTIZATION and use.idx > 0 for use in uses):
        return False
    dtype = value.const_value.dtype
    # Shapes and indices have 32 or 64 bits; integers of 8 and fewer are stored weights.
    is_narrow = dtype.itemsize <= 1 and dtype != ir.DataType.BOOL
    is_quantized = any(use.node.op_type in _QUANTIZATION for use in uses)
    return dtype.is_floating_point() or is_narrow or is_quantized


def _size(value: ir.Value) -> int:
    return value.const_value.size if value.const_value else 0


def _nonzero(value: ir.Value) -> int:
    """Counts the weights that do not stand for zero."""
    stored = constant(value)
    if stored is None:
        return 0
    use = next(iter(value.uses()))
    has_zero_point = use.node.op_type in _QUANTIZATION and len(use.node.inputs) > 2
    zero = constant(use.node.inputs[2]) if has_zero_point else None
    if zero is None or not zero.any():
        return int(np.count_nonzero(stored))
    return int(np.count_nonzero(stored != _spread(zero, stored.shape, use.node)))


def _spread(zero: NDArray[Any], shape: tuple[int, ...], node: ir.Node) -> NDArray[Any]:
    """Gives every stored weight its zero point: one for all, for an index, or for a block."""
    if zero.size == 1:
        return zero.reshape(())
    axis = attribute(node, "axis", 1) % len(shape)
    if zero.ndim == 1:
        return zero.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    repeated = np.repeat(zero, attribute(node, "block_size", 0), axis=axis)
    return np.take(repeated, np.arange(shape[axis]), axis=axis)


def _multiplies(node: ir.Node) -> bool:
    """Says whether a node does multiply-accumulates, itself or in a graph that it carries."""
    if node.op_type in _MACS and node.op_type != "If":
        return True
    graphs = [attr for attr in node.attributes.values() if attr.type == ir.AttributeType.GRAPH]
    return any(_multiplies(inner) for attr in graphs for inner in attr.as_graph())


TAKEN_KEY = "trimtab.taken"
"""Where an If says how often its `then_branch` was measured to run, as a share of samples."""


def _layer(node: ir.Node) -> LayerCount:
    output = shape_of(node.outputs[0])
    parameters = sum(_size(source) for source in map(_weight_source, node.inputs) if source)
    return LayerCount(
        name=node.name or node.outputs[0].name or "",
        operator=node.op_type,
        output_shape=output,
        parameters=parameters,
        macs=_MACS[node.op_type](node, output) if node.op_type in _MACS else None,
    )


def _weight_source(value: ir.Value | None) -> ir.Value | None:
    """Returns the initializer behind an input, looking through Reshape and DequantizeLinear."""
    for operator in ("Reshape", "DequantizeLinear"):
        producer = None if value is None else value.producer()
        if producer is not None and producer.op_type == operator:
            value = producer.inputs[0]
    return value if value is not None and constant(value) is not None else None


def _elements(shape: tuple[int | None, ...] | None) -> int | None:
    """Returns the elements of one sample: the batch counts as one.

    It is the free dimension, as in [steps, batch, features], or axis 0.
    """
    if shape is None or shape.count(None) > 1:
        return None
    return prod(dim for dim in (shape if None in shape else shape[1:]) if dim is not None)


def _conv(node: ir.Node, output: tuple[int | None, ...] | None) -> int | None:
    # W is [out, in / group, *kernel]: every output element sums over all but the first axis.
    weight, elements = shape_of(node.inputs[1]), _elements(output)
    if weight is None or elements is None or None in weight:
        return None
    return elements * prod(dim for dim in weight[1:] if dim is not None)


def _conv_transpose(node: ir.Node, output: tuple[int | None, ...] | None) -> int | None:
    # W is [in, out / group, *kernel]: every input element goes to all but the first axis.
    weight, elements = shape_of(node.inputs[1]), _elements(shape_of(node.inputs[0]))
    if output is None or weight is None or elements is None or None in weight:
        return None
    return elements * prod(dim for dim in weight[1:] if dim is not None)


def _matmul(node: ir.Node, output: tuple[int | None, ...] | None) -> int | None:
    left, elements = shape_of(node.inputs[0]), _elements(output)
    if left is None or elements is None:
        return None
    transposed = node.op_type == "Gemm" and attribute(node, "transA", 0)
    inner = left[0] if transposed else left[-1]
    return None if inner is None else elements * inner


def _recurrent(node: ir.Node, _output: tuple[int | None, ...] | None) -> int | None:
    # W is [directions, gates * hidden, in], R [directions, gates * hidden, hidden]: each step
    # multiplies with all of both. X is [steps, batch, in], or [batch, steps, in] in layout 1.
    shapes = [shape_of(value) for value in node.inputs[:3]]
    if any(shape is None for shape in shapes):
        return None
    data, weight, recurrent = (shape or () for shape in shapes)
    steps: int | None = data[attribute(node, "layout", 0)]
    if steps is None or None in weight or None in recurrent:
        return None
    return steps * (
        prod(dim for dim in weight if dim is not None)
        + prod(dim for dim in recurrent if dim is not None)
    )


def _if(node: ir.Node, _output: tuple[int | None, ...] | None) -> int | None:
    # How often the body of a Loop runs, and which branch of an If, shows on the device only, unless
    # it was measured.
    if TAKEN_KEY not in node.metadata_props:
        return None
    taken = float(node.metadata_props[TAKEN_KEY])
    total = 0.0
    for name, share in (("then_branch", taken), ("else_branch", 1 - taken)):
        inside = [_layer(n).macs for n in node.attributes[name].as_graph() if _multiplies(n)]
        known = [macs for macs in inside if macs is not None]
        if len(known) < len(inside):
            return None
        total += share * sum(known)
    return round(total)


_MACS = {
    "If": _if,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _matmul,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
}
