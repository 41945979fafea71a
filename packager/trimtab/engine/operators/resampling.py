"""The matrix that a resize multiplies an axis by (ONNX operator Resize; numpy only)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How to sample, by the attributes of Resize of the same meaning."""

    mode: str
    coordinates: str
    rounding: str
    antialias: bool = False
    exclude_outside: bool = False
    cubic: float = -0.75


@dataclass(frozen=True)
class Scaled:
    """One axis: how long it is, how long it becomes, and the scale that its coordinates have."""

    length: int
    size: int
    scale: float


def matrix(sampling: Sampling, side: Scaled) -> Matrix:
    """Returns the matrix `[size, length]` of a resize along one axis.

    Raises:
        ValueError: The attributes have values that this does not know.
    """
    positions = _positions(sampling.coordinates, side)
    if sampling.mode == "nearest":
        return _picked(_rounded(positions, sampling.rounding), side.length)
    # Shrinking with antialiasing widens the filter by the scale.
    shrink = min(side.scale, 1.0) if sampling.antialias else 1.0
    kernels: dict[str, Callable[[Matrix], Matrix]] = {
        "linear": _triangle,
        "cubic": partial(_cubic, a=sampling.cubic),
    }
    if sampling.mode not in kernels:
        raise ValueError(f"mode {sampling.mode!r}")
    kernel = _Filter(kernels[sampling.mode], shrink, outside=not sampling.exclude_outside)
    return _filtered(positions, side.length, kernel)


def kernel_matrix(
    mode: str, side: Scaled, *, half_pixel_centers: bool = False, align_corners: bool = False
) -> Matrix:
    """Returns the matrix of TensorFlow's kernel (image_resizer_state.h, resize_*_op.cc)."""
    out = np.arange(side.size, dtype=np.float64)
    ratio = side.length / side.size
    if align_corners and side.size > 1:
        ratio = (side.length - 1) / (side.size - 1)
    if mode == "nearest":
        centres = out * ratio + (0.5 * ratio if half_pixel_centers else 0.0)
        found = np.floor(centres + 0.5) if align_corners else np.floor(centres + 1e-9)
        return _picked(found, side.length)
    positions = (out + 0.5) * ratio - 0.5 if half_pixel_centers else out * ratio
    return _filtered(positions, side.length, _Filter(_triangle))


def _positions(coordinates: str, side: Scaled) -> Matrix:
    """Returns where each element of the result lies in the data."""
    out = np.arange(side.size, dtype=np.float64)
    length, scale = side.length, side.scale
    exact = scale * length
    if coordinates == "half_pixel":
        return (out + 0.5) / scale - 0.5
    if coordinates == "pytorch_half_pixel":
        return (out + 0.5) / scale - 0.5 if exact > 1 else np.zeros(side.size)
    if coordinates == "half_pixel_symmetric":
        # The size was rounded; what that took away is taken from both ends.
        centre = length / 2 * (1 - side.size / exact)
        return centre + (out + 0.5) / scale - 0.5
    if coordinates == "align_corners":
        return out * (length - 1) / (exact - 1) if exact != 1 else np.zeros(side.size)
    if coordinates == "asymmetric":
        return out / scale
    raise ValueError(f"coordinate_transformation_mode {coordinates!r}")


def _rounded(positions: Matrix, rounding: str) -> Matrix:
    functions: dict[str, Callable[[Matrix], Matrix]] = {
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if rounding not in functions:
        raise ValueError(f"nearest_mode {rounding!r}")
    return np.asarray(functions[rounding](positions))


def _picked(found: Matrix, length: int) -> Matrix:
    return np.asarray(np.eye(length)[np.clip(found, 0, length - 1).astype(int)])


@dataclass(frozen=True)
class _Filter:
    """Weights by distance, `shrink` times as narrow; `outside` of the border too, or not."""

    weigh: Callable[[Matrix], Matrix]
    shrink: float = 1.0
    outside: bool = True


_RADIUS = 2
"""Of the wider of the two filters."""


def _filtered(positions: Matrix, length: int, kernel: _Filter) -> Matrix:
    """Weighs the neighbours of each position; behind the border stands the last element."""
    reach = int(np.ceil(_RADIUS / kernel.shrink))
    result = np.zeros((len(positions), length))
    for row, position in enumerate(positions):
        near = np.floor(position) + np.arange(-reach, reach + 2)
        weights = kernel.weigh((near - position) * kernel.shrink)
        if not kernel.outside:
            weights = np.where((near < 0) | (near > length - 1), 0.0, weights)
        np.add.at(result[row], np.clip(near, 0, length - 1).astype(int), weights / weights.sum())
    return result


def _triangle(distance: Matrix) -> Matrix:
    return np.asarray(np.maximum(1 - np.abs(distance), 0.0))


def _cubic(distance: Matrix, a: float) -> Matrix:
    """Keys' kernel (1981, "Cubic Convolution Interpolation for Digital Image Processing")."""
    x = np.abs(distance)
    inner = ((a + 2) * x - (a + 3)) * x**2 + 1
    outer = a * (((x - 5) * x + 8) * x - 4)
    return np.asarray(np.where(x <= 1, inner, np.where(x < 2, outer, 0.0)))
