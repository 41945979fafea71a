"""Groups of activations whose channels may be scaled together without a change of the outputs.

Such a stream starts at layers that write it with constant weights, runs through operators that are
positively homogeneous channel by channel, and ends at layers that read it with constant weights.
Additions join what they add. A Clip to 0..6 ends a stream: on EfficientNet-Lite0 other photos went
past what the calibration samples reach by more than a quarter, and were clipped where the original
does not clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.access import attribute, constant, held

Array = NDArray[Any]

_LAYERS = frozenset({"Conv", "Gemm"})
_PASSING = frozenset(
    {"Add", "AveragePool", "GlobalAveragePool", "Identity", "LeakyRelu", "MaxPool", "Relu"}
)


@dataclass(frozen=True)
class Layer:
    """A Conv or Gemm whose weights are its own.

    Attributes:
        node: The operator.
    """

    node: ir.Node

    def by_input(self, channels: int) -> Array:
        """Returns the weights, shape (groups, outputs, inputs, window)."""
        weights = constant(self.node.inputs[1])
        assert weights is not None
        if self._reads_columns():
            weights = weights.T
        groups = channels // weights.shape[1]
        return weights.reshape(groups, len(weights) // groups, weights.shape[1], -1)

    def multiply_outputs(self, factors: NDArray[np.float32]) -> None:
        """Multiplies weights and bias of each output channel."""
        weights = constant(self.node.inputs[1])
        assert weights is not None
        along = (1, -1) if self._reads_columns() else (-1, *[1] * (weights.ndim - 1))
        _store(self.node.inputs[1], weights * factors.reshape(along))
        if len(self.node.inputs) > 2 and self.node.inputs[2] is not None:
            bias = constant(self.node.inputs[2])
            assert bias is not None
            _store(self.node.inputs[2], bias * factors)

    def divide_inputs(self, factors: NDArray[np.float32]) -> None:
        """Divides the weights of each input channel."""
        weights = constant(self.node.inputs[1])
        assert weights is not None
        grouped = self.by_input(len(factors))
        scaled = grouped / factors.reshape(len(grouped), 1, -1, 1)
        shape = weights.T.shape if self._reads_columns() else weights.shape
        flat = scaled.reshape(shape)
        _store(self.node.inputs[1], flat.T if self._reads_columns() else flat)

    def _reads_columns(self) -> bool:
        return self.node.op_type == "Gemm" and not attribute(self.node, "transB", 0)


@dataclass(frozen=True)
class Stream:
    """Activations with common channels.

    Attributes:
        values: The activations that are not read by a Relu alone, channels along axis 1.
        writers: Layers whose output channels they are.
        readers: Layers whose input channels they are; at least one.
    """

    values: tuple[ir.Value, ...]
    writers: tuple[Layer, ...]
    readers: tuple[Layer, ...]


def find_streams(graph: ir.Graph) -> list[Stream]:
    """Lists all streams, in the order of the graph. No two share a value.

    Args:
        graph: A float graph with inferred types.
    """
    found = []
    seen: set[ir.Value] = set()
    for node in graph:
        if node.op_type in _LAYERS and node.outputs[0] not in seen:
            values = _connected(node.outputs[0])
            seen |= values
            stream = _stream(graph, values)
            if stream is not None:
                found.append(stream)
    return found


def _connected(start: ir.Value) -> set[ir.Value]:
    """Returns the values that passing operators connect with one."""
    found: set[ir.Value] = set()
    waiting = [start]
    while waiting:
        value = waiting.pop()
        if value in found:
            continue
        found.add(value)
        around = [use.node for use in value.uses()]
        if (producer := value.producer()) is not None:
            around.append(producer)
        for node in around:
            if _passes(node):
                waiting += [*_operands(node), node.outputs[0]]
    return found


def _stream(graph: ir.Graph, values: set[ir.Value]) -> Stream | None:
    """Makes a stream of values, or none where something else reads or writes one."""
    ordered = [value for node in graph for value in node.outputs if value in values]
    uses = [use for value in ordered for use in value.uses()]
    writers = [value.producer() for value in ordered]
    whole = (
        len(ordered) == len(values)
        and not any(value.is_graph_output() for value in ordered)
        and all(_passes(node) or _is_layer(node) for node in writers if node is not None)
        and all(_passes(use.node) or (_is_layer(use.node) and use.idx == 0) for use in uses)
    )
    readers = list(dict.fromkeys(use.node for use in uses if _is_layer(use.node)))
    if not whole or not readers:
        return None
    return Stream(
        values=tuple(value for value in ordered if not _only_activated(value)),
        writers=tuple(Layer(node) for node in writers if node is not None and _is_layer(node)),
        readers=tuple(Layer(node) for node in readers),
    )


def _is_layer(node: ir.Node) -> bool:
    if node.op_type not in _LAYERS or node.domain:
        return False
    if attribute(node, "transA", 0) or any(
        attribute(node, n, 1.0) != 1.0 for n in ("alpha", "beta")
    ):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return _is_own(node.inputs[1]) and (
        bias is None or (_is_own(bias) and len(bias.shape or ()) == 1)
    )


def _is_own(value: ir.Value | None) -> bool:
    """Says whether a constant may change: nothing else reads it, and equal weights may differ."""
    if value is None or value.producer() is not None or constant(value) is None:
        return False
    return len(list(value.uses())) == 1 and held(value) not in {"clusters", "model_clusters"}


def _passes(node: ir.Node) -> bool:
    if node.domain or node.op_type not in _PASSING:
        return False
    return node.op_type != "Add" or all(_joins(value, node) for value in node.inputs)


def _joins(value: ir.Value | None, node: ir.Node) -> bool:
    """Says whether an addition adds a value element by element."""
    if value is None or value.producer() is None or value.shape is None:
        return False
    sum_shape = node.outputs[0].shape
    return sum_shape is not None and list(value.shape) == list(sum_shape)


def _operands(node: ir.Node) -> Iterator[ir.Value]:
    inputs = node.inputs if node.op_type == "Add" else node.inputs[:1]
    return (value for value in inputs if value is not None)


def _only_activated(value: ir.Value) -> bool:
    """Says whether a Relu or Clip is fused behind a value, so that it is never rounded itself."""
    readers = {use.node.op_type for use in value.uses()}
    return bool(readers) and readers <= {"Relu"}


def _store(value: ir.Value | None, array: Array) -> None:
    assert value is not None
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)
