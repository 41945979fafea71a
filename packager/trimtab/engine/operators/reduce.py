"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trimtab.engine.layout import Laid
from trimtab.engine.registry import Call, operator


def _plain(name: str) -> Callable[[Any, Any, list[int]], Any]:
    return lambda tf, x, axes: getattr(tf, name)(x, axes, keepdims=True)


def _norm(tf: Any, x: Any, axes: list[int]) -> Any:
    return tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims=True))


_FUNCTIONS: dict[str, Callable[[Any, Any, list[int]], Any]] = {
    "ReduceMean": _plain("reduce_mean"),
    "ReduceSum": _plain("reduce_sum"),
    "ReduceMax": _plain("reduce_max"),
    "ReduceMin": _plain("reduce_min"),
    "ReduceProd": _plain("reduce_prod"),
    "ReduceLogSumExp": _plain("reduce_logsumexp"),
    "ReduceL1": lambda tf, x, axes: tf.reduce_sum(tf.abs(x), axes, keepdims=True),
    "ReduceL2": _norm,
    "ReduceLogSum": lambda tf, x, axes: tf.math.log(tf.reduce_sum(x, axes, keepdims=True)),
    "ReduceSumSquare": lambda tf, x, axes: tf.reduce_sum(tf.square(x), axes, keepdims=True),
}
_OF_NO_AXES = {
    "ReduceL1": "abs",
    "ReduceL2": "abs",
    "ReduceLogSum": "log",
    "ReduceSumSquare": "square",
}
"""What an operator does to each element where it is told to reduce no axis."""


@operator(*_FUNCTIONS)
def reduce(call: Call) -> Laid:
    """Reduces the axes given (all if none are), keeping them with size 1 unless told not to."""
    import tensorflow as tf

    data, name = call[0], call.node.op_type
    axes = call.integers(1, "axes")
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            alone = _OF_NO_AXES.get(name)
            return Laid(getattr(tf.math, alone)(data.tensor), data.axes) if alone else data
        axes = tuple(range(data.rank))
    logical = {axis % data.rank for axis in axes}
    physical = [data.physical(axis) for axis in sorted(logical)]
    kept = Laid(_reduced(call, data.tensor, physical), data.axes)
    return kept if call.attribute("keepdims", 1) else drop_axes(kept, logical)


def _reduced(call: Call, tensor: Any, axes: list[int]) -> Any:
    """The maximum of truth values is whether any is true, the minimum whether all are."""
    import tensorflow as tf

    name = call.node.op_type
    if tf.as_dtype(tensor.dtype).is_bool:
        function = {"ReduceMax": tf.reduce_any, "ReduceMin": tf.reduce_all}[name]
        return function(tensor, axes, keepdims=True)
    return _FUNCTIONS[name](tf, tensor, axes)


def drop_axes(value: Laid, logical: set[int]) -> Laid:
    """Makes logical axes of size 1 into axes that nothing stands for; no data moves."""
    remaining = sorted(axis for axis in value.axes if axis is not None and axis not in logical)
    renumbered = {axis: index for index, axis in enumerate(remaining)}
    return Laid(
        value.tensor,
        tuple(None if axis is None else renumbered.get(axis) for axis in value.axes),
    )
