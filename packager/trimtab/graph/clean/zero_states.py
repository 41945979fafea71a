"""Initial states of zero are left out of recurrent layers, for which zero is what is meant then.

PyTorch's exports make them at run time, in the size of the batch (ONNX operators LSTM, GRU, RNN:
inputs `initial_h` and `initial_c` are 0 where they are not given).
"""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import attribute, constant

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_STATES = (5, 6)
_MOVES = frozenset(
    {
        *("Expand", "Tile", "Slice", "Split", "Gather", "Squeeze", "Unsqueeze", "Reshape"),
        *("Transpose", "Identity", "Cast", "Flatten"),
    }
)


def drop_zero_states(model: ir.Model) -> bool:
    """Leaves out initial states that are proved to be zero."""
    changed = False
    for node in model.graph:
        if node.op_type not in _RECURRENT or node.domain:
            continue
        for index in _STATES:
            state = node.inputs[index] if index < len(node.inputs) else None
            if state is not None and _is_zero(state):
                node.replace_input_with(index, None)
                changed = True
    return changed


def _is_zero(value: ir.Value | None) -> bool:
    """Follows a value back through nodes that only move elements."""
    while value is not None:
        array = constant(value)
        if array is not None:
            return not array.any()
        producer = value.producer()
        if producer is None:
            return False
        if producer.op_type == "ConstantOfShape":
            fill = attribute(producer, "value", None)
            return fill is None or not fill.numpy().any()
        if producer.op_type not in _MOVES:
            return False
        value = producer.inputs[0]
    return False
