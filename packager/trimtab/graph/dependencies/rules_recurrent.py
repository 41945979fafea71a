"""The rule of recurrent layers: a hidden unit is a channel.

A unit that is dropped takes its rows of every gate with it, and its column of the recurrent
weights, through which the other units hear of it. What is left computes the same as a layer in
which those weights are zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import attribute
from trimtab.graph.dependencies.atoms import LabelArray
from trimtab.graph.dependencies.labels import Labels, along, dimensions, is_parameter
from trimtab.graph.dependencies.rules import data, input_at, rule

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_PEEPHOLES = 3
"""An LSTM's input, output and forget gate may each look at the cell."""


@rule("LSTM", "GRU", "RNN")
def recurrent(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Consume axis 2 of the input and make the last axis of all outputs.

    W is (directions, gates * hidden, in), R (directions, gates * hidden, hidden), B (directions,
    2 * gates * hidden), all with the gates one after another. Both directions lose the same units.
    """
    weight, recurrence, bias = (input_at(node, index) for index in (1, 2, 3))
    peepholes = input_at(node, 7)
    if weight is None or recurrence is None or attribute(node, "layout", 0):
        return None
    given = [value for value in (weight, recurrence, bias, peepholes) if value is not None]
    if not all(is_parameter(value) for value in given):
        return None
    taken, hidden = dimensions(weight)[2], dimensions(recurrence)[2]
    assert taken is not None
    assert hidden is not None
    gates = _GATES[node.op_type]
    units = labels.atoms.create(hidden)
    source = labels.vector(labels.of(data(node)), 2, taken)
    labels.set_parameter(weight, {1: np.tile(units, gates), 2: source})
    labels.set_parameter(recurrence, {1: np.tile(units, gates), 2: units})
    labels.add_kernel(weight)
    labels.add_kernel(recurrence, 2)
    labels.add_reader(weight, 2)
    labels.add_reader(recurrence, 2)
    for value, count in ((bias, 2 * gates), (peepholes, _PEEPHOLES)):
        if value is not None:
            labels.set_parameter(value, {1: np.tile(units, count)})
    for index in (5, 6):
        _tie_state(input_at(node, index), units, labels)
    return [
        along(units, len(value.shape) - 1, len(value.shape)) if value.shape else units
        for value in node.outputs
    ]


def _tie_state(state: ir.Value | None, units: LabelArray, labels: Labels) -> None:
    """Let an initial state of shape (directions, batch, hidden) lose what the layer loses."""
    if state is None:
        return
    if is_parameter(state) and dimensions(state)[2] == len(units):
        labels.set_parameter(state, {2: units})
    else:
        labels.atoms.tie(labels.vector(labels.of(state), 2, len(units)), units)
