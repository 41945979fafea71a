"""The arithmetic of int8: which real numbers the 256 codes stand for.

A code `q` stands for `scale * (q - zero_point)` (ONNX QuantizeLinear and DequantizeLinear;
Jacob et al. 2018, arXiv:1712.05877, equation 1). Activations use the codes 0..255 with a zero
point of their own. Weights use -127..127 around zero point 0: every kernel library requires it,
and it saves them a correction term for each product. A bias is an int32 in units of input scale
times weight scale, so that a kernel adds it straight to its accumulator.

Activations are uint8, not int8, because that is what runs right and fast. ONNX Runtime 1.31 on
x86-64 turns int8 activations into uint8 when it loads a graph, but misses those with several
readers, and the convolutions around every residual connection stay float. OpenVINO 2026.4 computes
a convolution behind a Concat of int8 activations wrongly, by up to 23 of 255 steps of the output
in a small graph with random weights. TFLite's codes are int8, but its converter reads ranges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rounding = Callable[[NDArray[np.floating]], NDArray[np.floating]]

CODE_MIN, CODE_MAX = 0, 255
WEIGHT_MAX = 127
INT16_MAX = 32767
# Half of int32: the other half is for the sum of products that the bias is added to.
BIAS_MAX = 2**30
# A range narrower than this holds no signal, and its scale would underflow in float32 once it is
# multiplied by a weight's.
SMALLEST_EXTENT = 1e-12


@dataclass(frozen=True)
class Range:
    """The real interval that an activation's codes have to cover.

    Attributes:
        low: Smallest value, at most 0.
        high: Largest value, at least 0.
    """

    low: float
    high: float

    @classmethod
    def around_zero(cls, low: float, high: float) -> Range:
        """Widen an interval until it holds zero.

        Padding, ReLU and dropped channels all write exact zeros, so zero needs an exact code.
        """
        return cls(min(0.0, low), max(0.0, high))

    def union(self, other: Range) -> Range:
        """Give the smallest range that covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class AffineParameters:
    """What an activation's codes stand for.

    Attributes:
        scale: Size of one step, above 0, exact in float32.
        zero_point: The code for 0.0, in 0..255; 0 where codes are int16.
    """

    scale: float
    zero_point: int


def activation_parameters(covered: Range) -> AffineParameters:
    """Spread the 256 codes over a range.

    An empty range (an activation that was zero on all calibration data) gets the codes of 0..1.

    Args:
        covered: The range; it includes zero.
    """
    extent = covered.high - covered.low
    if extent < SMALLEST_EXTENT:
        return AffineParameters(float(np.float32(1 / 255)), CODE_MIN)
    scale = float(np.float32(extent / (CODE_MAX - CODE_MIN)))
    zero_point = round(CODE_MIN - covered.low / scale)
    return AffineParameters(scale, int(np.clip(zero_point, CODE_MIN, CODE_MAX)))


def symmetric_parameters(covered: Range) -> AffineParameters:
    """Spread the int16 codes -32767..32767 over a range, zero in the middle.

    TFLite's 16x8 kernels take no zero point for activations (LiteRT's 8-bit quantization
    specification, "16x8 quantization").

    Args:
        covered: The range; it includes zero.
    """
    extent = max(-covered.low, covered.high)
    if extent < SMALLEST_EXTENT:
        extent = 1.0
    return AffineParameters(float(np.float32(extent / INT16_MAX)), 0)


@dataclass(frozen=True)
class ActivationForm:
    """The integers that activations are rounded to.

    Attributes:
        dtype: Their type, as numpy names it.
        parameters: Makes scale and zero point of a range.
    """

    dtype: str
    parameters: Callable[[Range], AffineParameters]


UINT8 = ActivationForm("uint8", activation_parameters)
INT16 = ActivationForm("int16", symmetric_parameters)


def quantize_activation(
    values: NDArray[np.floating], parameters: AffineParameters
) -> NDArray[np.uint8]:
    """Round real values to uint8 codes, halves to even as ONNX QuantizeLinear does."""
    codes = np.rint(values / parameters.scale) + parameters.zero_point
    clipped: NDArray[np.uint8] = np.clip(codes, CODE_MIN, CODE_MAX).astype(np.uint8)
    return clipped


def dequantize_activation(
    codes: NDArray[np.uint8], parameters: AffineParameters
) -> NDArray[np.float32]:
    """Give the real values that uint8 codes stand for."""
    steps = codes.astype(np.int32) - parameters.zero_point
    return (steps * np.float32(parameters.scale)).astype(np.float32)


def weight_scales(weights: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    """Choose the scales that make the largest weight code 127.

    A channel of zeros, or of weights that tiny, takes the scale of the whole tensor: any fits its
    weights, but its bias is still stored in units of it.

    Args:
        weights: Real weights of any shape.
        axis: The axis with a scale for each index, or None for one scale in all.

    Returns:
        float32, shape (weights.shape[axis],), or () without an axis; all above 0.
    """
    magnitudes = np.abs(weights)
    largest = float(magnitudes.max(initial=0.0))
    fallback = np.float32((largest if largest > SMALLEST_EXTENT else 1.0) / WEIGHT_MAX)
    if axis is None:
        return np.asarray(fallback)
    other_axes = tuple(i for i in range(weights.ndim) if i != axis)
    scales = magnitudes.max(axis=other_axes) / np.float32(WEIGHT_MAX)
    return np.where(scales * WEIGHT_MAX > SMALLEST_EXTENT, scales, fallback).astype(np.float32)


def widen_for_bias(
    scales: NDArray[np.float32], bias: NDArray[np.float32], input_scale: float
) -> NDArray[np.float32]:
    """Raise weight scales until the bias, in units of input times weight scale, fits an int32.

    It matters for channels whose weights are almost zero and whose bias is not, which is what
    folding the batch norm of a dead channel leaves.

    Args:
        scales: Weight scales, shape (channels,) or ().
        bias: Real bias, shape (channels,).
        input_scale: Scale of the operator's input activation.

    Returns:
        Scales of the same shape, none smaller than before.
    """
    needed = np.abs(bias) / (input_scale * BIAS_MAX)
    floor = needed if scales.ndim else needed.max(initial=0.0)
    return np.maximum(scales, floor).astype(np.float32)


def along_axis(scales: NDArray[np.float32], rank: int, axis: int | None) -> NDArray[np.float32]:
    """Reshape scales so that they broadcast along one axis of a tensor of that rank."""
    if axis is None:
        return scales
    return scales.reshape([-1 if i == axis else 1 for i in range(rank)])


def quantize_weights(
    weights: NDArray[np.float32], scales: NDArray[np.float32], axis: int | None, rounding: Rounding
) -> NDArray[np.int8]:
    """Round weights to codes in -127..127, with zero point 0.

    Args:
        weights: Real weights of any shape.
        scales: One scale for each index of the axis, or a scalar.
        axis: The axis of the scales, or None.
        rounding: Makes integers of weights over their scales.
    """
    codes = rounding(weights / along_axis(scales, weights.ndim, axis))
    clipped: NDArray[np.int8] = np.clip(codes, -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8)
    return clipped


def quantize_bias(bias: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int32]:
    """Round a bias to int32 codes with zero point 0.

    Args:
        bias: Real bias, shape (channels,).
        scales: Input scale times weight scale, shape (channels,) or ().
    """
    return np.rint(bias.astype(np.float64) / scales).astype(np.int32)
