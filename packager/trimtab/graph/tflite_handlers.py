"""Operators of TFLite for which tf2onnx 1.17 has no ONNX.

Each handler takes tf2onnx's graph and one node and puts ONNX nodes in its place. tf2onnx calls
TFLite's operators `TFL_` and their name, and leaves optional inputs that are not given out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trimtab.graph.tensorflow_nodes import make_constant, put

_LSTM_INPUTS = 15
"""Data, 4 weights of it, 4 recurrent ones, 4 biases, 2 states: no peephole, projection or norm."""


def tflite_handlers() -> dict[str, tuple[Any, list[str]]]:
    """Returns the handlers as `custom_op_handlers` takes them."""
    functions = {
        "TFL_DENSIFY": _identity,
        "TFL_GELU": _gelu,
        "TFL_RELU_N1_TO_1": _clip_from_minus_one,
        "TFL_RELU_0_TO_1": _clip_from_zero,
        "TFL_UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
        "TFL_UNIDIRECTIONAL_SEQUENCE_RNN": _rnn,
    }
    return {name: (function, []) for name, function in functions.items()}


def _identity(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    """Lets a sparse weight through, which was written out before tf2onnx read the file."""
    put(ctx, node, "Identity", [node.input[0]])


def _gelu(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    """Writes x / 2 * (1 + erf(x / sqrt 2)), or its approximation with a tanh (Hendrycks 2016)."""
    data = node.input[0]

    def op(kind: str, left: str, right: str | float | None = None) -> str:
        inputs = [left]
        if right is not None:
            inputs.append(right if isinstance(right, str) else _scalar(ctx, right))
        return str(ctx.make_node(kind, inputs).output[0])

    if node.get_attr_value("approximate"):
        cube = op("Mul", op("Mul", op("Mul", data, data), data), 0.044715)
        inner = op("Tanh", op("Mul", op("Add", data, cube), math.sqrt(2 / math.pi)))
    else:
        inner = op("Erf", op("Mul", data, math.sqrt(0.5)))
    put(ctx, node, "Mul", [op("Mul", data, 0.5), op("Add", inner, 1.0)])


def _clip_from_minus_one(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    put(ctx, node, "Clip", [node.input[0], _scalar(ctx, -1.0), _scalar(ctx, 1.0)])


def _clip_from_zero(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    put(ctx, node, "Clip", [node.input[0], _scalar(ctx, 0.0), _scalar(ctx, 1.0)])


def _lstm(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    """Writes an LSTM that starts from zeros.

    TFLite keeps the states between two runs; the layer of Keras that was converted does not.
    """
    if len(node.input) != _LSTM_INPUTS or node.get_attr_value("cell_clip"):
        return  # the check of the result names it
    data, *rest = node.input
    # TFLite's gates are input, forget, cell, output; ONNX stacks input, output, forget, cell.
    order = (0, 3, 1, 2)
    weights, recurrent, biases = (
        _stacked(ctx, [rest[start + gate] for gate in order]) for start in (0, 4, 8)
    )
    _recurrent(ctx, node, "LSTM", [data, weights, recurrent, biases], ["Sigmoid", "Tanh", "Tanh"])


def _rnn(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    data, weights, recurrent, bias, _ = node.input
    parts = [_stacked(ctx, [part]) for part in (weights, recurrent, bias)]
    function = str(node.get_attr_value("fused_activation_function", b"TANH"), "ascii")
    names = {"TANH": "Tanh", "RELU": "Relu", "NONE": "Affine"}
    if function in names:
        _recurrent(ctx, node, "RNN", [data, *parts], [names[function]])


def _stacked(ctx: Any, parts: Sequence[str]) -> str:
    """Lays the gates' weights one below the other, behind an axis for the directions."""
    joined = ctx.make_node("Concat", list(parts), attr={"axis": 0}).output[0]
    return str(ctx.make_node("Unsqueeze", [joined, _axes(ctx, 0)]).output[0])


def _recurrent(
    ctx: Any, node: Any, operator: str, inputs: Sequence[str], activations: Sequence[str]
) -> None:
    """Puts an ONNX layer over `[time, batch, input]` in the place of one over time or batch."""
    data, weights, recurrent, bias = inputs
    time_major, hidden = bool(node.get_attr_value("time_major")), ctx.get_shape(node.input[5])
    if operator == "RNN":
        hidden = ctx.get_shape(node.input[2])
    if not time_major:
        data = ctx.make_node("Transpose", [data], attr={"perm": [1, 0, 2]}).output[0]
    zeros = ctx.make_node("Sub", [bias, bias]).output[0]
    both = ctx.make_node("Concat", [bias, zeros], attr={"axis": 1}).output[0]
    attributes: dict[str, Any] = {"hidden_size": hidden[0], "activations": list(activations)}
    if "Affine" in activations:
        attributes |= {"activation_alpha": [1.0], "activation_beta": [0.0]}
    layer = ctx.make_node(operator, [data, weights, recurrent, both], attr=attributes)
    outputs = ctx.make_node("Squeeze", [layer.output[0], _axes(ctx, 1)]).output[0]
    if time_major:
        put(ctx, node, "Identity", [outputs])
    else:
        put(ctx, node, "Transpose", [outputs], perm=[1, 0, 2])


def _axes(ctx: Any, axis: int) -> str:
    return make_constant(ctx, np.asarray([axis], np.int64))


def _scalar(ctx: Any, number: float) -> str:
    return make_constant(ctx, np.asarray(number, np.float32))
