"""Operators of TensorFlow for which tf2onnx 1.17 has no ONNX, or an unhandy one.

Each handler takes tf2onnx's graph and one node and puts ONNX nodes in its place
(`custom_op_handlers` of `tf2onnx.convert`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from trimtab.graph.keras_recurrent import MARKER
from trimtab.graph.tensorflow_linear import linear_handlers
from trimtab.graph.tensorflow_nodes import make_constant, put

_LAST = np.iinfo(np.int64).max


def handlers() -> dict[str, tuple[Any, list[str]]]:
    """Returns the handlers as `custom_op_handlers` takes them."""
    functions = {
        "Erfc": _erfc,
        "Expm1": _expm1,
        "ReverseV2": _reverse,
        "Bucketize": _bucketize,
        "PyFunc": _recurrent,
    }
    return {name: (function, []) for name, function in functions.items()} | linear_handlers()


def _replace(ctx: Any, node: Any, output: str, index: int = 0) -> None:
    ctx.replace_all_inputs(node.output[index], output)


def _erfc(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    """Writes erfc(x) as 1 + erf(-x): the form of GELU that runtimes fuse."""
    one = make_constant(ctx, np.ones((), _dtype(ctx, node)))
    negative = _negated(ctx, node.inputs[0]) or ctx.make_node("Neg", [node.input[0]]).output[0]
    erf = ctx.make_node("Erf", [negative])
    put(ctx, node, "Add", [erf.output[0], one])


def _negated(ctx: Any, producer: Any) -> str | None:
    """Returns -x where x is a product with a constant: the constant's sign is changed."""
    if producer.type != "Mul":
        return None
    for index, factor in enumerate(producer.inputs):
        if factor.is_const():
            constant = make_constant(ctx, -factor.get_tensor_value(as_list=False))
            made = ctx.make_node("Mul", [producer.input[1 - index], constant])
            return str(made.output[0])
    return None


def _expm1(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    one = make_constant(ctx, np.ones((), _dtype(ctx, node)))
    power = ctx.make_node("Exp", [node.input[0]])
    put(ctx, node, "Sub", [power.output[0], one])


def _reverse(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    """Writes a reversal as a Slice with step -1; tf2onnx's own is a ReverseSequence."""
    axes = np.atleast_1d(node.inputs[1].get_tensor_value(as_list=False)).astype(np.int64)
    bounds = [np.full_like(axes, -1), np.full_like(axes, -_LAST), axes, np.full_like(axes, -1)]
    inputs = [node.input[0], *(make_constant(ctx, bound) for bound in bounds)]
    put(ctx, node, "Slice", inputs)


def _bucketize(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    """Counts the boundaries that are not above x."""
    boundaries = np.asarray(node.get_attr_value("boundaries"), np.float32)
    data = ctx.make_node("Cast", [node.input[0]], attr={"to": onnx.TensorProto.FLOAT})
    last = make_constant(ctx, np.asarray([-1], np.int64))
    wide = ctx.make_node("Unsqueeze", [data.output[0], last])
    above = ctx.make_node("GreaterOrEqual", [wide.output[0], make_constant(ctx, boundaries)])
    ones = ctx.make_node("Cast", [above.output[0]], attr={"to": ctx.get_dtype(node.output[0])})
    put(ctx, node, "ReduceSum", [ones.output[0], last], keepdims=0)


def _recurrent(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    """Writes ONNX's GRU, LSTM or RNN for a marker of `keras_recurrent`."""
    marker = _marker_text(node)
    if marker is None:
        return  # a Python function in the user's model: the check of the result names it
    settings = json.loads(marker)
    data, weights, rest = node.input[1], list(node.input[2:5]), list(node.input[5:])
    lengths = rest.pop(0) if settings["lengths"] else ""
    dtype = ctx.get_dtype(node.output[0])
    time_first = ctx.make_node("Transpose", [data], attr={"perm": [1, 0, 2]})
    axis0 = make_constant(ctx, np.asarray([0], np.int64))
    given = [ctx.make_node("Unsqueeze", [state, axis0]).output[0] for state in rest]
    inputs = [time_first.output[0], *weights, *([lengths] if given or lengths else []), *given]
    layer = ctx.make_node(
        settings["operator"],
        inputs,
        attr=_attributes(settings),
        output_count=len(node.output),
        dtypes=[dtype] * len(node.output),
        name=node.name.removesuffix("/PyFunc"),
    )
    axis1 = make_constant(ctx, np.asarray([1], np.int64))
    one_direction = ctx.make_node("Squeeze", [layer.output[0], axis1])
    outputs = ctx.make_node("Transpose", [one_direction.output[0]], attr={"perm": [1, 0, 2]})
    if settings["backwards"]:
        # Keras returns the steps as they were computed, ONNX as they stand in the input.
        bounds = [make_constant(ctx, np.asarray([item])) for item in (-1, -_LAST, 1, -1)]
        outputs = ctx.make_node("Slice", [outputs.output[0], *bounds])
    _replace(ctx, node, outputs.output[0], 0)
    for index in range(1, len(node.output)):
        state = ctx.make_node("Squeeze", [layer.output[index], axis0])
        _replace(ctx, node, state.output[0], index)
    ctx.remove_node(node.name)


def _marker_text(node: Any) -> str | None:
    """Returns a marker's settings, or None if the operator is another Python function."""
    if not node.input or not node.inputs[0].is_const():
        return None
    value = node.inputs[0].get_tensor_value()
    text = value.decode() if isinstance(value, bytes) else str(value)
    return text.removeprefix(MARKER) if text.startswith(MARKER) else None


def _attributes(settings: dict[str, Any]) -> dict[str, Any]:
    activations = settings["activations"]
    attributes: dict[str, Any] = {
        "hidden_size": settings["hidden_size"],
        "direction": "reverse" if settings["backwards"] else "forward",
        "activations": [name for name, _, _ in activations],
    }
    # Only activations that have an alpha or a beta consume one, in order.
    alphas = [alpha for _, alpha, _ in activations if alpha is not None]
    betas = [beta for _, _, beta in activations if beta is not None]
    if alphas:
        attributes |= {"activation_alpha": alphas, "activation_beta": betas}
    if settings["operator"] == "GRU":
        attributes["linear_before_reset"] = int(settings["reset_after"])
    return attributes


def _dtype(ctx: Any, node: Any) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(ctx.get_dtype(node.output[0]))
