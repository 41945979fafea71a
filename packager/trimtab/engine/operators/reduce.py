"""Reductions over axes."""

from __future__ import annotations

from trimtab.engine.layout import Laid
from trimtab.engine.registry import Call, operator

_FUNCTIONS = {
    "ReduceMean": "reduce_mean",
    "ReduceSum": "reduce_sum",
    "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
}


@operator(*_FUNCTIONS)
def reduce(call: Call) -> Laid:
    """Reduces the axes given (all if none are), keeping them with size 1 unless told not to."""
    import tensorflow as tf

    data = call[0]
    axes = call.integers(1, "axes")
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return data
        axes = tuple(range(data.rank))
    logical = {axis % data.rank for axis in axes}
    function = getattr(tf, _FUNCTIONS[call.node.op_type])
    result = function(data.tensor, [data.physical(axis) for axis in sorted(logical)], keepdims=True)
    kept = Laid(result, data.axes)
    return kept if call.attribute("keepdims", 1) else drop_axes(kept, logical)


def drop_axes(value: Laid, logical: set[int]) -> Laid:
    """Makes logical axes of size 1 into axes that nothing stands for; no data moves."""
    remaining = sorted(axis for axis in value.axes if axis is not None and axis not in logical)
    renumbered = {axis: index for index, axis in enumerate(remaining)}
    return Laid(
        value.tensor,
        tuple(None if axis is None else renumbered.get(axis) for axis in value.axes),
    )
