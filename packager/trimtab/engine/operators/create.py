"""Operators that make a tensor from a shape, and those that ask for one.

What is known of a shape while the graph is built comes out as a numpy array, and whatever is
computed from it stays one (`module._folded`); the rest is computed when the graph runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from trimtab.engine.layout import Laid, laid
from trimtab.engine.operators.gather import known, size_of
from trimtab.engine.registry import Call, operator


@operator("Shape")
def shape(call: Call) -> Laid:
    """Sizes of the axes from `start` to `end`, int64."""
    import tensorflow as tf

    data = call[0]
    axes = range(data.rank)[slice(call.attribute("start", 0), call.attribute("end"))]
    sizes = [size_of(data.tensor, data.physical(axis)) for axis in axes]
    if all(isinstance(size, int) for size in sizes):
        return laid(np.asarray(sizes, np.int64))
    # Stacked, so that TensorFlow still knows the sizes that are fixed.
    return laid(tf.stack([tf.cast(size, tf.int64) for size in sizes]))


@operator("Size")
def size(call: Call) -> Laid:
    """Number of elements, int64."""
    import tensorflow as tf

    sizes = list(call[0].tensor.shape)
    if None not in sizes:
        return laid(np.asarray(np.prod(sizes, dtype=np.int64)))
    return laid(tf.size(call[0].tensor, out_type=tf.int64))


@operator("Constant")
def constant(call: Call) -> Laid:
    """A tensor that the node carries."""
    (attribute,) = call.node.attributes.values()
    if attribute.name == "value":
        return laid(attribute.as_tensor().numpy())
    if attribute.name not in ("value_int", "value_ints", "value_float", "value_floats"):
        raise call.unsupported(f"with {attribute.name}")
    dtype = np.int64 if "int" in attribute.name else np.float32
    return laid(np.asarray(attribute.value, dtype))


@operator("ConstantOfShape")
def constant_of_shape(call: Call) -> Laid:
    """One value everywhere, by default a float zero."""
    import tensorflow as tf

    value = call.attribute("value")
    array = np.zeros(1, np.float32) if value is None else value.numpy()
    return laid(tf.fill(call.tensor(0), array.reshape(())))


@operator("EyeLike")
def eye_like(call: Call) -> Laid:
    """Ones on a diagonal, in the shape of a matrix."""
    import tensorflow as tf

    rows, columns = call[0].dim(0), call[0].dim(1)
    if rows is None or columns is None:
        raise call.unsupported("of free size")
    wished = call.attribute("dtype")
    dtype = call[0].tensor.dtype if wished is None else ir.DataType(wished).numpy()
    eye = np.eye(rows, columns, k=call.attribute("k", 0))
    return laid(eye.astype(tf.as_dtype(dtype).as_numpy_dtype))


@operator("Range")
def range_(call: Call) -> Laid:
    """From start, by delta, up to limit."""
    import tensorflow as tf

    return laid(known(tf.range(*(call.tensor(index) for index in range(3)))))


@operator("Expand")
def expand(call: Call) -> Laid:
    """Repeats axes of size 1; the shape may be smaller than the data's, which then stands."""
    import tensorflow as tf

    data, target = call.tensor(0), call.tensor(1)
    sizes = [size_of(data, axis) for axis in range(call[0].rank)]
    if isinstance(target, np.ndarray) and all(isinstance(item, int) for item in sizes):
        whole: Any = np.broadcast_shapes(tuple(sizes), tuple(target))
    else:
        present = tf.shape(data, out_type=tf.int64)
        whole = tf.broadcast_dynamic_shape(present, tf.cast(target, tf.int64))
    return laid(tf.broadcast_to(data, whole))


@operator("Tile")
def tile(call: Call) -> Laid:
    """Repeats each axis as often as told."""
    import tensorflow as tf

    return laid(tf.tile(call.tensor(0), call.tensor(1)))


@operator("Trilu")
def trilu(call: Call) -> Laid:
    """The part of matrices above or below a diagonal, zeros elsewhere."""
    import tensorflow as tf

    data = call.tensor(0)
    offset = int(np.asarray(call.array(1)).item()) if call.has(1) else 0
    rows, columns = (tf.range(size_of(data, axis)) for axis in (-2, -1))
    distance = tf.cast(columns[None, :], tf.int64) - tf.cast(rows[:, None], tf.int64)
    kept = distance >= offset if call.attribute("upper", 1) else distance <= offset
    return laid(tf.where(kept, data, tf.zeros((), data.dtype)))
