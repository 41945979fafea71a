"""Weights that a graph stores as integers, found and taken apart for a target's own form.

A stored weight is a constant behind DequantizeLinear, and where its codes are kept as a matrix
behind a Reshape too (docs/decisions/0008-weight-only-forms.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import (
    Array,
    add_initializer,
    attribute,
    constant,
    only_consumer,
    replace_value,
)
from trimtab.graph.precision import may_round_activations

_INTEGER_LAYERS = frozenset({"Conv", "MatMul", "Gemm", "Add", "Mul", "Concat", "Where"})


@dataclass(frozen=True)
class StoredWeight:
    """Codes, scales and zero points of one weight.

    Attributes:
        node: The DequantizeLinear.
        value: What layers read: its output, or that of the Reshape behind it.
        codes: As stored, widened to int32.
        bits: Of the type that they are stored in: 4 or 8, or 32 for biases.
        scales: Of the codes' rank: along each axis as long as the codes, 1, or `blocks` long.
        zero_points: Of the same shape.
        axis: Along which there are blocks, or rows with scales of their own.
        block: Codes along `axis` that share a scale; None where each has its own or all share one.
        dynamic: Whether the runtime may round what the layer reads to 8 bits.
    """

    node: ir.Node
    value: ir.Value
    codes: Array
    bits: int
    scales: Array
    zero_points: Array
    axis: int
    block: int | None
    dynamic: bool

    @property
    def name(self) -> str:
        """Name of the value that layers read."""
        return str(self.value.name)

    @property
    def readers(self) -> tuple[tuple[ir.Node, int], ...]:
        """Nodes that read the weight, each with the position of its input."""
        return tuple((use.node, use.idx) for use in self.value.uses())

    def add_codes(self, graph: ir.Graph, name: str, codes: Array) -> ir.Value:
        """Registers codes in another layout; they keep what is known of the stored ones."""
        value = add_initializer(graph, name, codes)
        source = self.node.inputs[0]
        assert source is not None, "a stored weight has codes"
        value.metadata_props.update(source.metadata_props)
        return value

    @property
    def is_symmetric(self) -> bool:
        """Whether the code 0 stands for zero everywhere."""
        return not self.zero_points.any()


def stored_weights(graph: ir.Graph) -> list[StoredWeight]:
    """Returns the weights that layers read as floats.

    Left out are those of layers that read and give integers: ONNX Runtime makes integer kernels of
    their pairs as they are.
    """
    found = (_take_apart(node) for node in graph if node.op_type == "DequantizeLinear")
    return [weight for weight in found if weight is not None and not _in_integer_kernel(weight)]


def _take_apart(node: ir.Node) -> StoredWeight | None:
    """Returns the weight behind a DequantizeLinear; None if it is computed or of an odd form."""
    source = node.inputs[0]
    codes, scale = constant(source), constant(node.inputs[1])
    if source is None or source.dtype is None or codes is None or scale is None or not codes.ndim:
        return None
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    axis = int(attribute(node, "axis", 1)) % codes.ndim
    block = int(attribute(node, "block_size", 0)) or None
    if block is not None and codes.shape[axis] % block:
        return None
    shape = _scale_shape(codes, scale, axis)
    if shape is None:
        return None
    zeros = np.zeros(scale.shape) if zero is None else zero
    return StoredWeight(
        node=node,
        value=_read_value(node),
        codes=codes.astype(np.int32),
        bits=source.dtype.bitwidth,
        scales=scale.astype(np.float32).reshape(shape),
        zero_points=zeros.astype(np.int32).reshape(shape),
        axis=axis,
        block=block,
        dynamic=may_round_activations(node),
    )


def _scale_shape(codes: Array, scale: Array, axis: int) -> tuple[int, ...] | None:
    """Returns the shape that lays scales out beside their codes."""
    if scale.size == 1:
        return (1,) * codes.ndim
    if scale.ndim == codes.ndim:
        return scale.shape
    if scale.ndim == 1 and scale.size == codes.shape[axis]:
        return tuple(scale.size if i == axis else 1 for i in range(codes.ndim))
    return None


def _read_value(node: ir.Node) -> ir.Value:
    output = node.outputs[0]
    reader = only_consumer(output)
    if reader is not None and reader.op_type == "Reshape" and reader.inputs[0] is output:
        return reader.outputs[0]
    return output


def _in_integer_kernel(weight: StoredWeight) -> bool:
    """Says whether ONNX Runtime makes an integer kernel of a reader, and so wants the pair."""
    return weight.block is None and any(_has_integer_kernel(reader) for reader, _ in weight.readers)


def _has_integer_kernel(layer: ir.Node) -> bool:
    """Says whether a layer with a stored weight runs on integers.

    Its activations must come out of integers; but for products of matrices, which can give floats,
    its output must become integers too (onnxruntime, qdq_selector_action_transformer.cc).
    """
    if layer.op_type == "QuantizeLinear":
        return True
    if layer.op_type not in _INTEGER_LAYERS or not _comes_from_integers(layer.inputs[0]):
        return False
    return layer.op_type in ("MatMul", "Gemm") or _becomes_integers(layer.outputs[0])


def _comes_from_integers(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    return (
        node is not None and node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is None
    )


def _becomes_integers(value: ir.Value) -> bool:
    reader = only_consumer(value)
    if reader is not None and reader.op_type in ("Relu", "Clip"):
        reader = only_consumer(reader.outputs[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def replace_layer(graph: ir.Graph, node: ir.Node, new: list[ir.Node]) -> None:
    """Puts nodes in the place of one; the last one's output takes over its name."""
    old, result = node.outputs[0], new[-1].outputs[0]
    graph.insert_before(node, new)
    result.shape, result.type = old.shape, ir.TensorType(ir.DataType.FLOAT)
    name = old.name
    replace_value(old, result)
    graph.remove(node, safe=True)
    result.name = name
    new[-1].name = f"{node.name or name}_{new[-1].op_type}"
