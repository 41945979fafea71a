"""Where the largest elements are, and running sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, arrange, natural
from trimtab.engine.operators.reduce import drop_axes
from trimtab.engine.registry import Call, operator


@operator("ArgMax", "ArgMin")
def arg_extreme(call: Call) -> Laid:
    """Position of the first largest or smallest element along an axis, or of the last one."""
    import tensorflow as tf

    data = call[0]
    axis = call.attribute("axis", 0) % data.rank
    physical = data.physical(axis)
    last = call.attribute("select_last_index", 0)
    tensor = tf.reverse(data.tensor, [physical]) if last else data.tensor
    find = tf.argmax if call.node.op_type == "ArgMax" else tf.argmin
    found = tf.expand_dims(find(tensor, physical, output_type=tf.int64), physical)
    if last:
        found = tf.shape(tensor, out_type=tf.int64)[physical] - 1 - found
    kept = Laid(found, data.axes)
    return kept if call.attribute("keepdims", 1) else drop_axes(kept, {axis})


@operator("TopK")
def top_k(call: Call) -> tuple[Laid, Laid]:
    """The k largest or smallest along an axis, best first, and where they were."""
    import tensorflow as tf

    data = call[0]
    count = int(call.array(1).item())
    axis = call.attribute("axis", -1) % data.rank
    order = (*(item for item in natural(data.rank) if item != axis), axis)
    tensor = arrange(data, order)
    if call.attribute("largest", 1):
        values, indices = tf.math.top_k(tensor, count)
    else:
        _, indices = tf.math.top_k(_mirrored(tensor), count)
        values = tf.gather(tensor, indices, axis=-1, batch_dims=data.rank - 1)
    return Laid(values, order), Laid(tf.cast(indices, tf.int64), order)


def _mirrored(tensor: Any) -> Any:
    """Turns smallest into largest; not every integer has a negative."""
    import tensorflow as tf

    return tf.bitwise.invert(tensor) if tf.as_dtype(tensor.dtype).is_integer else -tensor


@operator("CumSum", "CumProd")
def cumulative(call: Call) -> Laid:
    """Running sum or product along an axis."""
    import tensorflow as tf

    data = call[0]
    axis = data.physical(int(np.asarray(call.array(1)).item()))
    function = tf.cumsum if call.node.op_type == "CumSum" else tf.math.cumprod
    exclusive, reverse = (bool(call.attribute(name, 0)) for name in ("exclusive", "reverse"))
    return Laid(function(data.tensor, axis, exclusive=exclusive, reverse=reverse), data.axes)
