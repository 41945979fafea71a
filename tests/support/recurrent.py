"""Graphs of one recurrent layer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FEATURES, HIDDEN = 5, 6


def layer(
    operator: str,
    steps: int | str,
    *,
    batch: int | str = "batch",
    lengths: list[int] | None = None,
    states: bool = False,
    peepholes: bool = False,
    **attributes: object,
) -> ir.Model:
    """Returns a layer of 5 features and 6 units with all of its outputs.

    Args:
        operator: LSTM, GRU or RNN.
        steps: Length of the sequence, or a name for one that is free.
        batch: Size of the batch, or a name.
        lengths: Of each sequence.
        states: Whether the initial states are inputs of the graph.
        peepholes: Whether an LSTM has them.
        attributes: Of the node.
    """
    generator = np.random.default_rng(0)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[operator] * HIDDEN

    def weight(*shape: int) -> np.ndarray:
        return generator.normal(0, 0.4, (directions, *shape)).astype(np.float32)

    arrays = {"W": weight(rows, FEATURES), "R": weight(rows, HIDDEN), "B": weight(2 * rows)}
    names = ["x", "W", "R", "B", "", "", "", ""]
    inputs = [("x", [steps, batch, FEATURES])]
    if lengths is not None:
        arrays["lengths"], names[4] = np.asarray(lengths, np.int32), "lengths"
    if peepholes:
        arrays["P"], names[7] = weight(3 * HIDDEN), "P"
    kinds = ["h", "c"] if operator == "LSTM" else ["h"]
    if states:
        names[5 : 5 + len(kinds)] = kinds
        inputs += [(kind, [directions, batch, HIDDEN]) for kind in kinds]
    while not names[-1]:
        names.pop()
    outputs = ["y", *(f"y_{kind}" for kind in kinds)]
    node = helper.make_node(operator, names, outputs, hidden_size=HIDDEN, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opset = helper.make_opsetid("", 17)
    return ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=8))


def samples(model: ir.Model, steps: int, batch: int) -> list[np.ndarray]:
    """Returns random data for a layer's inputs."""
    generator = np.random.default_rng(1)
    sizes = [(steps, batch, FEATURES)]
    sizes += [(value.shape[0], batch, HIDDEN) for value in model.graph.inputs[1:]]
    return [generator.normal(size=size).astype(np.float32) for size in sizes]
