"""The arithmetic of int8 codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compress.affine import (
    BIAS_MAX,
    Range,
    activation_parameters,
    along_axis,
    dequantize_activation,
    quantize_activation,
    quantize_bias,
    quantize_weights,
    weight_scales,
    widen_for_bias,
)

bounds = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=100)
@given(bounds, bounds, st.floats(0, 1))
def test_round_trip_is_off_by_half_a_step_at_most(a, b, position):
    covered = Range.around_zero(min(a, b), max(a, b))
    parameters = activation_parameters(covered)
    value = np.asarray([covered.low + position * (covered.high - covered.low)])
    restored = dequantize_activation(quantize_activation(value, parameters), parameters)
    tolerance = parameters.scale * 0.5001 + 1e-12
    assert abs(float(restored[0] - value[0])) <= tolerance


@settings(max_examples=100)
@given(bounds, bounds)
def test_zero_has_an_exact_code(a, b):
    parameters = activation_parameters(Range.around_zero(min(a, b), max(a, b)))
    assert parameters.scale > 0
    assert 0 <= parameters.zero_point <= 255
    codes = quantize_activation(np.zeros(1), parameters)
    assert codes[0] == parameters.zero_point
    assert dequantize_activation(codes, parameters)[0] == 0.0


@pytest.mark.parametrize(
    ("low", "high", "zero_point"),
    [(0, 5, 0), (-5, 0, 255), (0, 0, 0), (0, 1e-30, 0), (3, 3, 0), (-3, -3, 255)],
)
def test_one_sided_empty_and_constant_ranges(low, high, zero_point):
    parameters = activation_parameters(Range.around_zero(low, high))
    assert parameters.zero_point == zero_point
    assert np.isfinite(1 / np.float32(parameters.scale))


def test_weights_use_the_whole_range_in_every_channel():
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    weights *= np.asarray([1, 10, 100, 1000], np.float32).reshape(-1, 1, 1, 1)
    scales = weight_scales(weights, 0)
    codes = quantize_weights(weights, scales, 0, np.rint)
    assert np.abs(codes).max(axis=(1, 2, 3)).tolist() == [127] * 4
    error = np.abs(codes * along_axis(scales, 4, 0) - weights).max(axis=(1, 2, 3))
    assert (error <= scales * 0.5001).all()


def test_a_channel_of_zeros_gets_a_usable_scale():
    weights = np.asarray([[0, 0], [1, -2]], np.float32)
    assert weight_scales(weights, 0).tolist() == pytest.approx([2 / 127, 2 / 127])
    assert (weight_scales(np.zeros((2, 2), np.float32), 0) > 0).all()
    assert weight_scales(np.zeros((2, 2), np.float32), None) > 0


def test_a_large_bias_on_tiny_weights_fits_an_int32():
    scales = weight_scales(np.asarray([[1e-11, 0], [1, -1.27]], np.float32), 0)
    assert scales[0] < 1e-12
    bias = np.asarray([0.5, 0.5], np.float32)
    widened = widen_for_bias(scales, bias, 0.02)
    assert widened[1] == scales[1]
    codes = quantize_bias(bias, widened * np.float32(0.02))
    assert np.abs(codes.astype(np.int64)).max() <= BIAS_MAX * 1.001
    assert codes * (widened * 0.02) == pytest.approx(bias, rel=1e-3)
