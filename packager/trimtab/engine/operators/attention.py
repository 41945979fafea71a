"""Attention (opset 23): scaled dot products of heads, with masks, caches and grouped heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, laid
from trimtab.engine.registry import Call, operator


@operator("Attention")
def attention(call: Call) -> tuple[Laid | None, ...]:
    """`softmax(scale * Q K' + mask) V` per head, and the keys and values with the past ones.

    `Q [batch, heads, time, size]`, or `[batch, time, heads * size]` with `q_num_heads` given.
    """
    import tensorflow as tf

    _check(call)
    query = _heads(call, 0, call.attribute("q_num_heads"))
    key = _with_past(call, 4, _heads(call, 1, call.attribute("kv_num_heads")))
    value = _with_past(call, 5, _heads(call, 2, call.attribute("kv_num_heads")))
    groups = query.shape[1] // key.shape[1]
    scale = call.attribute("scale") or 1 / float(np.sqrt(query.shape[-1]))
    keys, values = (
        tf.repeat(item, groups, axis=1) if groups > 1 else item for item in (key, value)
    )
    scores = tf.matmul(query * tf.cast(scale, query.dtype), keys, transpose_b=True)
    cap = call.attribute("softcap", 0.0)
    if cap:
        scores = cap * tf.tanh(scores / cap)
    result = tf.matmul(_shares(call, scores), values)
    if call[0].rank == 3:
        result = _joined(result)
    return laid(result), laid(key), laid(value)


def _check(call: Call) -> None:
    """Refuses what edge models do not carry."""
    if call.wants(3):
        raise call.unsupported("with its output 3")
    if call.has(6):
        raise call.unsupported("with nonpad_kv_seqlen")
    for name in ("left_window_size", "right_window_size"):
        if call.attribute(name, -1) != -1:
            raise call.unsupported(f"with {name}")


def _heads(call: Call, index: int, heads: int | None) -> Any:
    """Returns an input as `[batch, heads, time, size]`."""
    import tensorflow as tf

    tensor = call.tensor(index)
    if call[index].rank == 4:
        return tensor
    if heads is None:
        raise call.unsupported("without the number of heads")
    width = tensor.shape[2] // heads
    batch = -1 if tensor.shape[0] is None else tensor.shape[0]
    time = tf.shape(tensor)[1] if tensor.shape[1] is None else tensor.shape[1]
    return tf.transpose(tf.reshape(tensor, (batch, time, heads, width)), (0, 2, 1, 3))


def _joined(tensor: Any) -> Any:
    """Returns heads to `[batch, time, heads * size]`."""
    import tensorflow as tf

    _, heads, time, width = tensor.shape
    moved = tf.transpose(tensor, (0, 2, 1, 3))
    return tf.reshape(moved, (-1, tf.shape(tensor)[2] if time is None else time, heads * width))


def _with_past(call: Call, index: int, present: Any) -> Any:
    import tensorflow as tf

    return tf.concat([call.tensor(index), present], 2) if call.has(index) else present


def _shares(call: Call, scores: Any) -> Any:
    """Softmax over the keys that a query may see; one that may see none gets zeros."""
    import tensorflow as tf

    seen = _seen(call, scores)
    if call.has(3) and not tf.as_dtype(call[3].tensor.dtype).is_bool:
        scores = scores + tf.cast(call.tensor(3), scores.dtype)
    if seen is None:
        return tf.nn.softmax(scores)
    hidden = tf.where(seen, scores, tf.as_dtype(scores.dtype).min)
    return tf.nn.softmax(hidden) * tf.cast(seen, scores.dtype)


def _seen(call: Call, scores: Any) -> Any | None:
    """Returns which keys each query may see, or None if it may see all."""
    import tensorflow as tf

    masks = []
    if call.attribute("is_causal", 0):
        times, keys = tf.shape(scores)[2], tf.shape(scores)[3]
        past = tf.shape(call.tensor(4))[2] if call.has(4) else 0
        masks.append(tf.range(keys)[None, :] <= tf.range(times)[:, None] + past)
    if call.has(3) and tf.as_dtype(call[3].tensor.dtype).is_bool:
        masks.append(call.tensor(3))
    return tf.logical_and(masks[0], masks[-1]) if masks else None
