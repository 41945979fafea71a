"""Linear operators of TensorFlow that ONNX lacks, as products with a constant matrix.

A Fourier transform of real numbers and a resize of a picture are linear in their input, so that a
matrix says all of them, and every runtime has fast products. Each handler takes tf2onnx's graph and
one node and puts ONNX nodes in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trimtab.graph.tensorflow_nodes import make_constant, put

_Matrix = NDArray[np.float32]


def linear_handlers() -> dict[str, tuple[Any, list[str]]]:
    """Returns the handlers as `custom_op_handlers` takes them."""
    functions = {
        "RFFT": _keep,
        "Real": _real,
        "Imag": _imaginary,
        "ComplexAbs": _magnitude,
        "ResizeBicubic": _bicubic,
        "ScaleAndTranslate": _scaled,
    }
    return {name: (function, []) for name, function in functions.items()}


def _keep(_ctx: Any, _node: Any, _name: str, _args: Sequence[Any]) -> None:
    """Leaves a transform to what takes its parts: ONNX's graphs carry no complex numbers.

    Nothing uses it then, and tf2onnx drops it; where something else does, the check names it.
    """


def _real(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    cosine = _transform(ctx, node.inputs[0], np.cos)
    if cosine is not None:
        put(ctx, node, "Identity", [cosine])


def _imaginary(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    sine = _transform(ctx, node.inputs[0], lambda angle: -np.sin(angle))
    if sine is not None:
        put(ctx, node, "Identity", [sine])


def _magnitude(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    parts = [_transform(ctx, node.inputs[0], wave) for wave in (np.cos, np.sin)]
    if None in parts:
        return
    squares = [ctx.make_node("Mul", [part, part]).output[0] for part in parts]
    put(ctx, node, "Sqrt", [ctx.make_node("Add", squares).output[0]])


def _transform(ctx: Any, fft: Any, wave: Callable[[NDArray[np.float64]], Any]) -> str | None:
    """Returns the product of a real transform's input with cosines or sines.

    `X[k] = sum x[n] exp(-2 pi i n k / N)` for k up to N / 2; the input is cut or padded with zeros
    to N, the transform's length (tf.signal.rfft).
    """
    if fft.type != "RFFT" or not fft.inputs[1].is_const():
        return None
    length = int(fft.inputs[1].get_tensor_value(as_list=False).reshape(-1)[0])
    given = ctx.get_shape(fft.input[0])[-1]
    if given < 0:
        return None
    angles = 2 * np.pi / length * np.outer(np.arange(given), np.arange(length // 2 + 1))
    matrix = np.where(np.arange(given)[:, None] < length, wave(angles), 0).astype(np.float32)
    return str(ctx.make_node("MatMul", [fft.input[0], make_constant(ctx, matrix)]).output[0])


def _bicubic(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    """TensorFlow takes the cubic's values from a table of 1024 steps, ONNX computes them."""
    import tensorflow as tf

    options = {
        name: bool(node.get_attr_value(name)) for name in ("align_corners", "half_pixel_centers")
    }

    def resize(_axis: int, pictures: _Matrix, size: Sequence[int]) -> Any:
        return tf.raw_ops.ResizeBicubic(images=pictures, size=size, **options)

    _resize(ctx, node, resize)


def _scaled(ctx: Any, node: Any, _name: str, _args: Sequence[Any]) -> None:
    """A resize with Lanczos' kernel or another, antialiased or not (`tf.image.resize`)."""
    import tensorflow as tf

    shape, size = ctx.get_shape(node.input[0]), node.inputs[1]
    # tf.image.resize computes the scale from the two sizes, at run time.
    if node.inputs[2].type != "Div" or not (size.is_const() and node.inputs[3].is_const()):
        return
    scale = size.get_tensor_value(as_list=False) / np.asarray(shape[1:3], np.float32)
    shift = node.inputs[3].get_tensor_value(as_list=False)
    kernel = node.get_attr_value("kernel_type")
    options = {
        "kernel_type": kernel.decode() if isinstance(kernel, bytes) else kernel,
        "antialias": bool(node.get_attr_value("antialias")),
    }

    def resize(axis: int, pictures: _Matrix, size: Sequence[int]) -> Any:
        scales, shifts = np.ones(2, np.float32), np.zeros(2, np.float32)
        scales[axis], shifts[axis] = scale[axis], shift[axis]
        return tf.raw_ops.ScaleAndTranslate(
            images=pictures, size=size, scale=scales, translation=shifts, **options
        )

    _resize(ctx, node, resize)


def _resize(ctx: Any, node: Any, resize: Callable[[int, _Matrix, Sequence[int]], Any]) -> None:
    """Writes a resize of `[batch, height, width, channels]` as a product for each side.

    Args:
        ctx: tf2onnx's graph.
        node: The resize; a side whose length is not known leaves it as it is.
        resize: From an axis (0 height, 1 width), pictures of one row or column, and a size to the
            resized pictures.
    """
    shape = ctx.get_shape(node.input[0])
    if min(shape[1:]) < 0 or not node.inputs[1].is_const():
        return
    height, width, channels = shape[1:]
    rows, columns = map(int, node.inputs[1].get_tensor_value(as_list=False).reshape(-1))
    data = ctx.make_node("Cast", [node.input[0]], attr={"to": onnx.TensorProto.FLOAT}).output[0]
    data = _reshaped(ctx, data, [-1, height, width * channels])
    data = _product(ctx, _matrix(resize, 0, height, rows), data)
    data = _reshaped(ctx, data, [-1, width, channels])
    data = _product(ctx, _matrix(resize, 1, width, columns), data)
    target = make_constant(ctx, np.asarray([-1, rows, columns, channels], np.int64))
    put(ctx, node, "Reshape", [data, target])


def _matrix(
    resize: Callable[[int, _Matrix, Sequence[int]], Any], axis: int, before: int, after: int
) -> _Matrix:
    """Returns what a resize of one side does, `[after, before]`: its answer to each unit vector."""
    import tensorflow as tf

    side, size = ([before, 1], [after, 1]) if axis == 0 else ([1, before], [1, after])
    pictures = np.eye(before, dtype=np.float32).reshape(before, *side, 1)
    # tf2onnx converts within a graph, where nothing is computed at once.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        resized: _Matrix = session.run(resize(axis, pictures, size))
    return resized.reshape(before, after).T


def _product(ctx: Any, matrix: _Matrix, data: str) -> str:
    return str(ctx.make_node("MatMul", [make_constant(ctx, matrix), data]).output[0])


def _reshaped(ctx: Any, data: str, shape: Sequence[int]) -> str:
    target = make_constant(ctx, np.asarray(shape, np.int64))
    return str(ctx.make_node("Reshape", [data, target]).output[0])
