"""Operators that write elements at their indices."""

from __future__ import annotations

from typing import Any

from trimtab.engine.layout import Laid, laid
from trimtab.engine.operators.gather import coordinates, nd_from_end
from trimtab.engine.registry import Call, operator


@operator("ScatterElements")
def scatter_elements(call: Call) -> Laid:
    """`data[indices[i][j]][j] = updates[i][j]` for axis 0, or combined with what was there."""
    data, indices = call.tensor(0), call.tensor(1)
    axis = call.attribute("axis", 0) % call[0].rank
    return laid(_scattered(call, data, coordinates(data, indices, axis), call.tensor(2)))


@operator("ScatterND")
def scatter_nd(call: Call) -> Laid:
    """The last axis of the indices holds coordinates of what each update goes to."""
    data = call.tensor(0)
    return laid(_scattered(call, data, nd_from_end(data, call.tensor(1)), call.tensor(2)))


def _scattered(call: Call, data: Any, indices: Any, updates: Any) -> Any:
    import tensorflow as tf

    functions = {
        "none": tf.tensor_scatter_nd_update,
        "add": tf.tensor_scatter_nd_add,
        "max": tf.tensor_scatter_nd_max,
        "min": tf.tensor_scatter_nd_min,
    }
    reduction = call.attribute("reduction", "none")
    if reduction not in functions:
        raise call.unsupported(f"with reduction {reduction!r}")
    return functions[reduction](data, indices, updates)
