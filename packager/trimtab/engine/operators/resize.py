"""Resize and Upsample, and the moves between depth and space.

Resizing is linear and separable: along each axis, the result is a matrix times the data, which
`resampling.matrix` works out from the standard's formulas. Where one of TensorFlow's kernels has
that same matrix, it runs; TFLite has these too. Else a nearest neighbour is a gather, and the
rest a product with the matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, arrange, channels_last
from trimtab.engine.operators.resampling import Sampling, Scaled, kernel_matrix, matrix
from trimtab.engine.registry import Call, operator

_STAND_IN = 8
"""Length of an axis of free size while a kernel is looked for: it suits every length or none."""


@operator("Resize", "Upsample")
def resize(call: Call) -> Laid:
    """By scales or to sizes; an axis of free size only by a whole number, and by a kernel."""
    data, sampling = call[0], _sampling(call)
    axes = [axis % data.rank for axis in call.attribute("axes") or range(data.rank)]
    changed = {
        axis: side
        for axis, scale, size in zip(axes, *_wished(call, axes), strict=True)
        if (side := _side(call, data.dim(axis), scale, size)) is not None
    }
    kernel = _kernel(sampling, changed) if data.rank == 4 and set(changed) <= {2, 3} else None
    if kernel is not None:
        return _by_kernel(data, changed, sampling.mode, kernel)
    if any(data.dim(axis) is None for axis in changed):
        raise call.unsupported("of an axis of free size")
    tensor = data.tensor
    for axis, side in changed.items():
        tensor = _along(tensor, data.physical(axis), matrix(sampling, side), sampling.mode)
    return Laid(tensor, data.axes)


def _side(call: Call, length: int | None, scale: float, size: int | None) -> Scaled | None:
    """Returns what becomes of an axis, or None if it stays as it is."""
    if length is None:
        if scale != int(scale):
            raise call.unsupported("of an axis of free size")
        length, size = _STAND_IN, None
    out = _scaled_size(length, scale) if size is None else size
    return None if length == out and scale == 1 else Scaled(length, out, scale)


def _scaled_size(length: int, scale: float) -> int:
    """`floor(length * scale)` in single precision, as ONNX Runtime and ONNX's own shapes have it.

    The scale of 12 to 10, 0.8333333, is a little too small in double precision.
    """
    return int(np.floor(np.float32(length) * np.float32(scale)))


def _sampling(call: Call) -> Sampling:
    """Reads the attributes; Upsample is what Resize was, counting from the corner."""
    if call.node.op_type == "Upsample":
        return Sampling(call.attribute("mode", "nearest"), "asymmetric", "floor")
    coordinates = call.attribute("coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_crop_and_resize":
        raise call.unsupported("of a region of interest")
    return Sampling(
        call.attribute("mode", "nearest"),
        coordinates,
        call.attribute("nearest_mode", "round_prefer_floor"),
        bool(call.attribute("antialias", 0)),
        bool(call.attribute("exclude_outside", 0)),
        call.attribute("cubic_coeff_a", -0.75),
    )


def _wished(call: Call, axes: list[int]) -> tuple[list[float], list[int | None]]:
    """Returns the scale of every axis, and the size where one is given."""
    first = 1 if call.node.op_type == "Upsample" else 2
    if call.has(3):
        lengths = [call[0].dim(axis) for axis in axes]
        sizes = _sizes(call, axes)
        scales = [
            1.0 if size is None or length is None else size / length
            for size, length in zip(sizes, lengths, strict=True)
        ]
        policy = call.attribute("keep_aspect_ratio_policy", "stretch")
        if policy == "stretch":
            return scales, sizes
        scale = min(scales) if policy == "not_larger" else max(scales)
        return [scale] * len(axes), [int(np.floor(scale * (n or 1) + 0.5)) for n in lengths]
    given = call.array(first) if call.has(first) else np.asarray(call.attribute("scales") or [])
    return [float(scale) for scale in given], [None] * len(axes)


def _sizes(call: Call, axes: list[int]) -> list[int | None]:
    """Returns the wished sizes; None for a free batch, which stays.

    PyTorch's exporter takes sizes from the shapes of values. They are known where they do not
    depend on the batch.
    """
    import tensorflow as tf

    if call[3].is_constant:
        sizes: list[int | None] = [int(size) for size in call.array(3)]
    else:
        # The shape inference of anything made in a computed shape says what is known of that.
        sizes = list(tf.zeros(call.tensor(3)).shape)
    for axis, size in zip(axes, sizes, strict=True):
        if (size is None or call[0].dim(axis) is None) and (axis, size) != (0, None):
            raise call.unsupported(f"of axis {axis}, of free size, to a size of its own")
    return sizes


def _kernel(sampling: Sampling, changed: dict[int, Scaled]) -> dict[str, bool] | None:
    """Finds a setting of TensorFlow's kernel with the same matrices."""
    if sampling.mode not in ("nearest", "linear"):
        return None
    settings: tuple[dict[str, bool], ...] = (
        {"half_pixel_centers": True},
        {"align_corners": True},
        {},
    )
    for setting in settings:
        if all(
            np.allclose(
                matrix(sampling, side), kernel_matrix(sampling.mode, side, **setting), atol=1e-6
            )
            for side in changed.values()
        ):
            return setting
    return None


def _by_kernel(data: Laid, changed: dict[int, Scaled], mode: str, setting: dict[str, bool]) -> Laid:
    import tensorflow as tf

    axes = channels_last(4)
    tensor = arrange(data, axes)
    size = []
    for axis in (2, 3):
        side, length = changed.get(axis), data.dim(axis)
        if length is None:
            size.append(tf.shape(tensor)[axis - 1] * (1 if side is None else int(side.scale)))
        else:
            size.append(length if side is None else side.size)
    kernel = tf.raw_ops.ResizeBilinear if mode == "linear" else tf.raw_ops.ResizeNearestNeighbor
    return Laid(kernel(images=tensor, size=size, **setting), axes)


def _along(tensor: Any, axis: int, weights: Any, mode: str) -> Any:
    """Multiplies one physical axis by a matrix `[out, in]`."""
    import tensorflow as tf

    if mode == "nearest":
        return tf.gather(tensor, weights.argmax(axis=1), axis=axis)
    product = tf.tensordot(tensor, weights.astype(tensor.dtype.as_numpy_dtype), [[axis], [1]])
    order = list(range(len(tensor.shape) - 1))
    order.insert(axis, len(tensor.shape) - 1)
    return tf.transpose(product, order)


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Laid:
    """Blocks of channels become blocks of pixels; mode CRD keeps a pixel's channels apart."""
    import tensorflow as tf

    data, block = call[0], call.attribute("blocksize")
    tensor = arrange(data, channels_last(4))
    if call.attribute("mode", "DCR") != "DCR":
        channels = data.dim(1)
        if channels is None:
            raise call.unsupported("of a free number of channels")
        # TensorFlow's order is DCR: [block, block, channels].
        index = np.arange(channels).reshape(-1, block, block).transpose(1, 2, 0).reshape(-1)
        tensor = tf.gather(tensor, index, axis=-1)
    return Laid(tf.nn.depth_to_space(tensor, block), channels_last(4))


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Laid:
    """Blocks of pixels become blocks of channels."""
    import tensorflow as tf

    block, axes = call.attribute("blocksize"), channels_last(4)
    result = tf.nn.space_to_depth(arrange(call[0], axes), block)
    if call.attribute("mode", "DCR") != "DCR":
        index = np.arange(result.shape[-1]).reshape(block * block, -1).T.reshape(-1)
        result = tf.gather(result, index, axis=-1)
    return Laid(result, axes)
