"""Operators that pick elements by their indices.

ONNX counts negative indices from the end; TensorFlow does not, so that they are moved first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, laid, onnx_order
from trimtab.engine.registry import Call, operator


@operator("Gather", trainable=(0,))
def gather(call: Call) -> Laid:
    """Slices along one axis, as an embedding takes rows of its table."""
    import tensorflow as tf

    data, indices = call.tensor(0), call[1]
    axis = call.attribute("axis", 0) % call[0].rank
    if indices.is_constant and indices.rank == 0:
        # A single slice is no gather; taken from a shape, its size stays known.
        index: list[Any] = [slice(None)] * call[0].rank
        index[axis] = int(indices.tensor)
        return laid(known(data[tuple(index)]))
    return laid(tf.gather(data, from_end(onnx_order(indices), size_of(data, axis)), axis=axis))


@operator("GatherElements")
def gather_elements(call: Call) -> Laid:
    """`out[i][j] = data[indices[i][j]][j]` for axis 0."""
    import tensorflow as tf

    data, indices = call.tensor(0), call.tensor(1)
    axis = call.attribute("axis", 0) % call[0].rank
    return laid(tf.gather_nd(data, coordinates(data, indices, axis)))


@operator("GatherND")
def gather_nd(call: Call) -> Laid:
    """The last axis of the indices holds coordinates; the first `batch_dims` axes are paired."""
    import tensorflow as tf

    data, indices = call.tensor(0), call.tensor(1)
    batch = call.attribute("batch_dims", 0)
    return laid(tf.gather_nd(data, nd_from_end(data, indices, batch), batch_dims=batch))


@operator("Compress")
def compress(call: Call) -> Laid:
    """Slices where a constant condition holds, of the data or of all its elements in a row."""
    import tensorflow as tf

    chosen = np.flatnonzero(call.array(1))
    axis = call.attribute("axis")
    data = call.tensor(0)
    if axis is None:
        return laid(tf.gather(tf.reshape(data, [-1]), chosen))
    return laid(tf.gather(data, chosen, axis=axis % call[0].rank))


@operator("NonZero")
def nonzero(call: Call) -> Laid:
    """Coordinates of elements that are not zero, one row an axis."""
    import tensorflow as tf

    data = call.tensor(0)
    return laid(tf.transpose(tf.where(tf.not_equal(data, tf.zeros((), data.dtype)))))


@operator("ReverseSequence")
def reverse_sequence(call: Call) -> Laid:
    """Turns the first elements of each sequence round, as many as it is long."""
    import tensorflow as tf

    batch, time = call.attribute("batch_axis", 1), call.attribute("time_axis", 0)
    return laid(
        tf.reverse_sequence(call.tensor(0), call.tensor(1), seq_axis=time, batch_axis=batch)
    )


@operator("OneHot")
def one_hot(call: Call) -> Laid:
    """`values[1]` at the index, `values[0]` elsewhere, and everywhere if it is out of range."""
    import tensorflow as tf

    depth = int(np.asarray(call.array(1)).item())
    values = call.tensor(2)
    # Indices may be floats, and count from the end where negative (ONNX operator OneHot).
    indices = tf.cast(call.tensor(0), tf.int64)
    indices = tf.where(indices < 0, indices + depth, indices)
    axis = call.attribute("axis", -1)
    rank = call[0].rank + 1
    result = tf.one_hot(indices, depth, on_value=True, off_value=False, axis=axis % rank)
    return laid(tf.where(result, values[1], values[0]))


def size_of(tensor: Any, axis: int) -> Any:
    """Returns the size of an axis: a number if it is known, else a tensor."""
    import tensorflow as tf

    size = tensor.shape[axis]
    return tf.shape(tensor, out_type=tf.int64)[axis] if size is None else int(size)


def from_end(indices: Any, size: Any) -> Any:
    """Moves negative indices to where they point; constants are moved now."""
    import tensorflow as tf

    if isinstance(indices, np.ndarray) and isinstance(size, int):
        return np.where(indices < 0, indices + size, indices)
    indices = tf.cast(indices, tf.int64)
    return tf.where(indices < 0, indices + tf.cast(size, tf.int64), indices)


def nd_from_end(data: Any, indices: Any, batch: int = 0) -> Any:
    """Moves negative coordinates, each by the size of its own axis."""
    import tensorflow as tf

    sizes = [size_of(data, batch + position) for position in range(indices.shape[-1])]
    return from_end(indices, np.asarray(sizes) if _numbers(sizes) else tf.stack(sizes))


def coordinates(data: Any, indices: Any, axis: int) -> Any:
    """Returns full coordinates `[..., rank]` of elements picked along one axis."""
    import tensorflow as tf

    rank = len(data.shape)
    sizes = [size_of(indices, position) for position in range(rank)]
    grid = tf.meshgrid(*[tf.range(tf.cast(size, tf.int64)) for size in sizes], indexing="ij")
    grid[axis] = tf.cast(from_end(indices, size_of(data, axis)), tf.int64)
    return tf.stack(grid, axis=-1)


def known(tensor: Any) -> Any:
    """Returns what TensorFlow knows of a tensor's value while it traces, else the tensor."""
    import tensorflow as tf

    if isinstance(tensor, np.ndarray | np.generic):
        return np.asarray(tensor)
    value = tf.get_static_value(tensor) if tensor.dtype.is_integer else None
    return tensor if value is None else np.asarray(value)


def _numbers(sizes: list[Any]) -> bool:
    return all(isinstance(size, int) for size in sizes)
