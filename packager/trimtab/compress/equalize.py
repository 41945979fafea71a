"""Gives the channels of an activation like ranges, and leaves what the model computes as it is.

All channels of an int8 activation share one scale, so a channel with small values has few codes.
Where a layer's output reaches other layers through nothing but positively homogeneous operators,
`f(s * x) = s * f(x)` for `s > 0`, each of its channels may be made larger in the layer that writes
it and smaller in those that read it (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", arXiv:1906.04721, section 4.1). What writes it has a scale for
each channel and loses nothing. What reads it may: weights of one output channel share a scale too.
So the factors are a compromise, `(largest extent / own extent) ** exponent` (as in SmoothQuant,
Xiao et al. 2023, arXiv:2211.10438, equation 4), and the exponent is the one with the least expected
squared error of the readers' outputs; 0 changes nothing. A depthwise convolution takes all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.calibrate import Samples, observe
from trimtab.compress.channel_streams import Stream, find_streams

Array = NDArray[Any]

_EXPONENTS = np.linspace(0, 1, 9)
_LARGEST_FACTOR = 64.0


@dataclass(frozen=True)
class _Extents:
    """What the channels of an activation reach on samples, each of shape (channels,)."""

    largest: Array
    mean_square: Array


def equalize(model: ir.Model, samples: Samples) -> int:
    """Scales channels of inner activations, in place.

    Args:
        model: A float32 model with inferred types.
        samples: As for `calibrate`.

    Returns:
        How many groups of activations were changed.

    Raises:
        DataError: The samples do not fit the inputs.
    """
    streams = find_streams(model.graph)
    if not streams:
        return 0
    names = [str(value.name) for stream in streams for value in stream.values]
    extents = _measure(model, samples, names)
    return sum(_equalize_stream(stream, extents) for stream in streams)


def _measure(model: ir.Model, samples: Samples, names: Sequence[str]) -> dict[str, _Extents]:
    largest: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    batches = 0
    for batch in observe(model, samples, names)():
        batches += 1
        for name, array in batch.items():
            others = tuple(axis for axis in range(array.ndim) if axis != 1)
            largest[name] = np.maximum(largest.get(name, 0), np.abs(array).max(axis=others))
            squares[name] = squares.get(name, 0) + np.square(array).mean(axis=others)
    return {name: _Extents(largest[name], squares[name] / batches) for name in names}


def _equalize_stream(stream: Stream, extents: Mapping[str, _Extents]) -> bool:
    seen = [extents[str(value.name)] for value in stream.values]
    largest = np.max([each.largest for each in seen], axis=0)
    if not largest.any():
        return False
    tried = [_factors(largest, exponent) for exponent in _EXPONENTS]
    errors = [_expected_error(stream, seen, factors) for factors in tried]
    best = int(np.argmin(errors))
    if best == 0:
        return False
    _scale(stream, tried[best].astype(np.float32))
    return True


def _factors(largest: Array, exponent: float) -> Array:
    """Returns what each channel is multiplied by; a channel that is never seen stays."""
    whole = float(largest.max())
    reach = np.where(largest > 0, largest, whole).astype(np.float64)
    return np.asarray(np.minimum(whole / reach, _LARGEST_FACTOR) ** exponent)


def _expected_error(stream: Stream, seen: Sequence[_Extents], factors: Array) -> float:
    """Returns the squared error of the readers' outputs as a share of what they compute.

    Rounding errors are taken as even over a step and independent. Every activation of the stream
    is rounded once, and so are the readers' weights, with a scale for each output channel.
    """
    steps = sum(float(np.square((each.largest * factors).max() / 255)) for each in seen)
    total = 0.0
    for reader in stream.readers:
        weights = reader.by_input(len(factors)).astype(np.float64)
        power = np.mean([each.mean_square for each in seen], axis=0).reshape(len(weights), 1, -1, 1)
        own = factors.reshape(power.shape)
        scaled = weights / own
        weight_steps = np.abs(scaled).max(axis=(2, 3), keepdims=True) / 127
        rounding = (power * own**2 * weight_steps**2).sum(axis=2).sum() * weights.shape[3]
        signal = (np.square(weights) * power).sum()
        total += (steps * np.square(scaled).sum() + rounding) / max(float(signal), 1e-30)
    return total


def _scale(stream: Stream, factors: NDArray[np.float32]) -> None:
    for writer in stream.writers:
        writer.multiply_outputs(factors)
    for reader in stream.readers:
        reader.divide_inputs(factors)
