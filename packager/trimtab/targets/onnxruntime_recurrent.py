"""LSTM layers whose activations may be rounded: ONNX Runtime's own operator for them.

DynamicQuantizeLSTM (onnxruntime, docs/ContribOperators.md) took 103 us where LSTM took 182 us,
for 50 steps, 64 inputs and 128 units. There is no such operator for GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import add_initializer, replace_value
from trimtab.targets.stored_weights import StoredWeight

_PLAIN = frozenset({"hidden_size", "direction"})
_INPUTS = 8
"""X, W, R, B, sequence_lens, initial_h, initial_c, P; scales and zero points follow."""


def is_dynamic_lstm(node: ir.Node, weights: Mapping[ir.Value | None, StoredWeight]) -> bool:
    """Says whether both matrices of a layer are stored by rows, and may be run on integers.

    Args:
        node: Any layer.
        weights: Stored weights by the value that layers read.
    """
    if node.op_type != "LSTM" or not set(node.attributes) <= _PLAIN:
        return False
    found = [weights.get(value) for value in node.inputs[1:3]]
    return all(weight is not None and _fits(weight) for weight in found)


def use_lstm_kernel(
    graph: ir.Graph, node: ir.Node, weights: Mapping[ir.Value | None, StoredWeight]
) -> None:
    """Puts a DynamicQuantizeLSTM in the layer's place."""
    inputs = [*node.inputs, *[None] * (_INPUTS - len(node.inputs))]
    stem = str(node.name or node.outputs[0].name)
    for index, letter in ((1, "W"), (2, "R")):
        weight = weights[node.inputs[index]]
        directions, rows, _ = _sizes(weight)
        codes = weight.codes.reshape(directions, rows, -1).transpose(0, 2, 1)
        kind = np.int8 if weight.codes.min() < 0 else np.uint8
        inputs[index] = weight.add_codes(graph, f"{stem}_{letter}", codes.astype(kind))
        scales, zeros = (
            np.broadcast_to(array.reshape(-1), (directions * rows,)).reshape(directions, rows)
            for array in (weight.scales, weight.zero_points)
        )
        inputs += [
            add_initializer(graph, f"{stem}_{letter}_scale", np.ascontiguousarray(scales)),
            add_initializer(graph, f"{stem}_{letter}_zero_point", zeros.astype(kind)),
        ]
    new = ir.node(
        "DynamicQuantizeLSTM",
        inputs,
        {name: attribute.value for name, attribute in node.attributes.items()},
        domain="com.microsoft",
        num_outputs=len(node.outputs),
        name=f"{stem}_DynamicQuantizeLSTM",
    )
    graph.insert_before(node, new)
    for old, result in zip(node.outputs, new.outputs, strict=True):
        result.shape, result.type = old.shape, old.type
        replace_value(old, result)
    graph.remove(node, safe=True)


def _fits(weight: StoredWeight) -> bool:
    """Says whether a weight `[directions, 4 * units, inputs]` has a scale for each row, or one."""
    if not weight.dynamic or weight.bits != 8 or len(weight.value.shape or ()) != 3:
        return False
    directions, rows, _ = _sizes(weight)
    return weight.scales.size in (1, directions * rows)


def _sizes(weight: StoredWeight) -> tuple[int, ...]:
    shape = weight.value.shape
    assert shape is not None, "_fits has looked"
    return tuple(int(dim) for dim in shape.numpy())
