"""Stored weights as tensors of a `.tflite` file: packed codes and quantization parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.targets.tflite_stored import StoredWeight

Array = NDArray[Any]

_LIMITS = {2: (-2, 1), 4: (-8, 7), 8: (-128, 127)}


@dataclass(frozen=True)
class Codes:
    """Signed codes and their scales as TFLite can name them.

    Attributes:
        values: int8, in the shape of the tensor.
        scales: One number, one for each index of `axis`, or `[rows, blocks]`.
        zeros: As many as scales, int64.
        axis: The axis that scales go along; 0 if there is one scale.
        block: Weights that share a scale along the last axis; None if all of an index do.
    """

    values: NDArray[np.int8]
    scales: Array
    zeros: Array
    axis: int
    block: int | None = None

    @property
    def bits(self) -> int:
        """The fewest of 2, 4 and 8 that hold every code."""
        low, high = int(self.values.min()), int(self.values.max())
        return next(
            bits for bits, (least, most) in _LIMITS.items() if least <= low and high <= most
        )

    @property
    def symmetric(self) -> bool:
        """Whether code 0 stands for zero everywhere."""
        return not self.zeros.any()


def signed_codes(weight: StoredWeight) -> Codes | None:
    """Returns codes and scales of a weight; None if TFLite cannot say how its scales lie.

    Codes from 0 up are moved down to int8's range, and their zero points with them.
    """
    assert weight.scales is not None, "floats have no codes"
    assert weight.zeros is not None, "floats have no codes"
    codes, zeros = weight.codes.astype(np.int16), weight.zeros.astype(np.int64)
    if codes.max() > _LIMITS[8][1]:
        codes, zeros = codes - 128, zeros - 128
    if codes.min() < _LIMITS[8][0] or codes.max() > _LIMITS[8][1]:
        return None  # 16 bits
    values = codes.astype(np.int8)
    axis = _scale_axis(weight.scales, zeros)
    if axis is None:
        return _in_blocks(values, weight.scales, zeros)
    one = tuple(slice(None) if index == axis else 0 for index in range(values.ndim))
    scales, points = weight.scales[one].reshape(-1), zeros[one].reshape(-1)
    if (scales == scales[0]).all() and (points == points[0]).all():
        return Codes(values, scales[:1], points[:1], 0)
    return Codes(values, scales, points, axis)


def pack_codes(values: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Packs signed codes, the first into the low bits of a byte.

    As TFLite's PackInt8IntoDenseInt4 does (lite/kernels/internal/portable_tensor_utils.cc).

    Args:
        values: Codes that fit into `bits`.
        bits: 2, 4 or 8.
    """
    fields = values.reshape(-1).view(np.uint8) & np.uint8(2**bits - 1)
    each = 8 // bits
    padded = np.concatenate([fields, np.zeros(-len(fields) % each, np.uint8)]).reshape(-1, each)
    shifted = padded << np.arange(0, 8, bits, dtype=np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(shifted, axis=1)
    return packed


def _scale_axis(scales: Array, zeros: Array) -> int | None:
    """Returns the one axis along which scales and zero points change; None if there are more."""
    changing = [
        axis
        for axis in range(scales.ndim)
        if any(_changes(array, axis) for array in (scales, zeros))
    ]
    return None if len(changing) > 1 else changing[0] if changing else 0


def _changes(array: Array, axis: int) -> bool:
    first = np.take(array, [0], axis)
    return bool((array != first).any())


def _in_blocks(values: NDArray[np.int8], scales: Array, zeros: Array) -> Codes | None:
    """Returns codes with a scale for each stretch of a matrix's rows, if all have one length."""
    if values.ndim != 2 or zeros.any():
        return None
    borders = np.flatnonzero((np.diff(scales, axis=1) != 0).any(axis=0)) + 1
    block = int(np.gcd.reduce([*borders, scales.shape[1]]))
    return Codes(values, scales[:, ::block], np.zeros(1, np.int64), 0, block)
