"""Where exits may be: inner values that a head can be put on, and what it costs to reach them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trimtab.errors import ModelError, RecipeError
from trimtab.graph.access import shape_of
from trimtab.graph.count import count_model
from trimtab.graph.exits import prefix_macs

_DEFAULT_SHARES = (0.25, 0.5, 0.75)
"""Of the multiply-accumulates in front of exits that nobody placed. Which is best depends on how
soon a model knows something, so several are tried."""

_CHANNELS_FIRST = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})
_LAYERS = _CHANNELS_FIRST | {"MatMul", "Gemm", "LSTM", "GRU", "RNN"}
_ENDS_OF_LAYERS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "HardSwish", "Elu", "Gelu", "Tanh", "Add", "LayerNormalization"}
)


@dataclass(frozen=True)
class Point:
    """An inner value.

    Attributes:
        value: Its name.
        axes: Those of positions, over which a head averages.
        macs: Multiply-accumulates that it takes to compute it.
    """

    value: str
    axes: tuple[int, ...]
    macs: int


def find_points(model: ir.Model, names: Sequence[str]) -> list[Point]:
    """Returns the exits' places, cheapest first.

    Args:
        model: A classifier with one output.
        names: Of inner values; with none, a few are proposed.

    Raises:
        ModelError: The model is no classifier, or has no value for a head.
        RecipeError: There is no such value, or a head cannot be put on it.
    """
    shape = shape_of(model.graph.outputs[0])
    classes = None if shape is None else shape[-1]
    if len(model.graph.outputs) != 1 or shape is None or len(shape) != 2 or (classes or 0) < 2:
        raise ModelError(
            "early_exit takes a classifier: one output of shape [batch, classes]; this model has "
            f"{', '.join(f'{v.name} {shape_of(v)}' for v in model.graph.outputs)}"
        )
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    points = [_named(model, values, name) for name in names] or _defaults(model, values)
    return sorted(points, key=lambda point: point.macs)


def _named(model: ir.Model, values: dict[str, ir.Value], name: str) -> Point:
    if name not in values:
        near = difflib.get_close_matches(name, values, n=3, cutoff=0.0)
        raise RecipeError(f"early_exit: there is no value {name!r}; near: {', '.join(near)}")
    axes = _axes(values[name])
    if axes is None:
        raise RecipeError(
            f"early_exit: a head cannot be put on {name!r} of shape {shape_of(values[name])}; it "
            "takes a float value with a batch and channels"
        )
    return Point(name, axes, prefix_macs(model, values[name]))


def _defaults(model: ir.Model, values: dict[str, ir.Value]) -> list[Point]:
    total = count_model(model).macs
    found = [
        Point(name, axes, prefix_macs(model, value))
        for name, value in values.items()
        if (producer := value.producer()) is not None
        and producer.op_type in _ENDS_OF_LAYERS
        and (axes := _axes(value)) is not None
        and not value.is_graph_output()
    ]
    found = [point for point in found if 0 < point.macs < total]
    if not found:
        raise ModelError("early_exit: the model has no inner layer to put an exit behind")
    nearest = [
        min(found, key=lambda point: abs(point.macs / total - share)) for share in _DEFAULT_SHARES
    ]
    return list(dict.fromkeys(nearest))


def _axes(value: ir.Value) -> tuple[int, ...] | None:
    """Returns the axes of positions, or None if the value is nothing for a head."""
    shape = shape_of(value)
    if shape is None or value.dtype != ir.DataType.FLOAT or not 2 <= len(shape) <= 5:
        return None
    layer = _last_layer(value)
    channel = 1 if layer in _CHANNELS_FIRST or len(shape) == 2 else len(shape) - 1
    if shape[channel] is None:
        return None
    return tuple(axis for axis in range(1, len(shape)) if axis != channel)


def _last_layer(value: ir.Value) -> str | None:
    """Returns the operator of the layer that a value comes from, whose layout it has."""
    producer = value.producer()
    while producer is not None and producer.op_type not in _LAYERS:
        sources = [v for v in producer.inputs if v is not None and v.producer() is not None]
        producer = sources[0].producer() if sources else None
    return None if producer is None else producer.op_type
