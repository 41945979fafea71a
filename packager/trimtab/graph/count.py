"""Parameters and multiply-accumulates of a graph, in total and per layer.

A multiply-accumulate (MAC) is one multiplication with its addition: what convolutions and
matrix products do. Element-wise operators, pooling and activations count none, as is usual.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.access import attribute, constant, shape_of
from trimtab.graph.macs import SampleShapes, free_lengths, macs, multiplies, with_lengths


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
        macs: For a batch of one, zeros multiplied like any other weight; of an If, the branch that
            costs more or, for early exits, the measured average.
        weight_bytes: What the counted initializers take in memory as stored.
        layers: Those that do multiply-accumulates, in graph order.
        uncounted: Names of layers whose shapes are unknown, so that `macs` lacks them.
        assumed: Lengths that the model leaves free, such as that of a sequence, and with what
            numbers `macs` was counted.
    """

    parameters: int
    nonzero_parameters: int
    macs: int
    weight_bytes: int
    layers: tuple[LayerCount, ...]
    uncounted: tuple[str, ...]
    assumed: dict[str, int] = {}


def count_model(model: ir.Model) -> ModelCount:
    """Counts `model`, whose shapes must have been inferred."""
    nodes = [node for node in model.graph if multiplies(node)]
    shapes = SampleShapes(model.graph, {})
    counts, assumed = [macs(node, shapes) for node in nodes], dict[str, int]()
    if None in counts:
        counts, assumed = _counts_with_free_lengths(model, counts)
    layers = [_layer(node, count) for node, count in zip(nodes, counts, strict=True)]
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
        assumed=assumed,
    )


def _counts_with_free_lengths(
    model: ir.Model, counts: list[int | None]
) -> tuple[list[int | None], dict[str, int]]:
    """Counts again with numbers for lengths that the model leaves free, if there are any."""
    lengths = free_lengths(model)
    if lengths:
        shapes = SampleShapes(model.graph, lengths)
        counts = [macs(node, shapes) for node in model.graph if multiplies(node)]
    if None in counts:  # as where the formula of a shape gets lost: work all out for one sample
        fixed = with_lengths(model, lengths)
        shapes = SampleShapes(fixed.graph, lengths)
        counts = [macs(node, shapes) for node in fixed.graph if multiplies(node)]
    return counts, lengths


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


def _layer(node: ir.Node, count: int | None) -> LayerCount:
    parameters = sum(_size(source) for source in map(_weight_source, node.inputs) if source)
    return LayerCount(
        name=node.name or node.outputs[0].name or "",
        operator=node.op_type,
        output_shape=shape_of(node.outputs[0]),
        parameters=parameters,
        macs=count,
    )


def _weight_source(value: ir.Value | None) -> ir.Value | None:
    """Returns the initializer behind an input, looking through what decodes it."""
    for operator in ("Reshape", "DequantizeLinear", "Cast"):
        producer = None if value is None else value.producer()
        if producer is not None and producer.op_type == operator:
            value = producer.inputs[0]
    return value if value is not None and constant(value) is not None else None
