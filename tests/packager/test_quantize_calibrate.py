"""Ranges of activations from sample data."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.quant_graphs import TrainedLike, residual
from trimtab.compress.affine import Range
from trimtab.compress.calibrate import (
    HISTOGRAM_BINS,
    Histogram,
    calibrate,
    least_error_range,
    percentile_range,
)
from trimtab.errors import DataError

METHODS = ("minmax", "percentile", "mse", "entropy")


def relu_model() -> ir.Model:
    b = TrainedLike(5)
    return b.build(b.op("Relu", "x"))


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_minmax_sees_every_sample_whatever_the_batches(count):
    x = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    x[-1, -1] = 9
    ranges = calibrate(relu_model(), (x,), ["x", "v0_0"], method="minmax")
    assert ranges["x"] == Range(min(0.0, float(x.min())), 9.0)
    assert ranges["v0_0"] == Range(0.0, 9.0)


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_that_is_always_zero(method):
    ranges = calibrate(relu_model(), (-np.ones((4, 5), np.float32),), ["x", "v0_0"], method=method)
    assert ranges["v0_0"] == Range(0.0, 0.0)
    assert ranges["x"].low < 0
    assert ranges["x"].high == 0


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_clipping_methods_leave_out_an_outlier(method):
    x = np.random.default_rng(0).normal(size=(20000, 5)).astype(np.float32)
    x[0, 0] = 12
    found = calibrate(relu_model(), (x,), ["x"], method=method)["x"]
    assert 2.5 < found.high < 11


def test_percentile_drops_one_value_in_ten_thousand_on_each_side():
    counts = np.full(HISTOGRAM_BINS, 10_000)
    edges = np.linspace(-1, 1, HISTOGRAM_BINS + 1)
    found = percentile_range(Histogram(counts, edges))
    assert found.high == pytest.approx(1, abs=0.002)
    counts[-1] = 1
    assert percentile_range(Histogram(counts, edges)).high < 1


def test_least_error_keeps_a_uniform_range_whole():
    histogram = Histogram(np.full(HISTOGRAM_BINS, 5), np.linspace(-2, 3, HISTOGRAM_BINS + 1))
    found = least_error_range(histogram)
    assert found.high == pytest.approx(3, rel=0.02)
    assert found.low == pytest.approx(-2, rel=0.02)


def test_samples_by_name_and_a_fixed_batch_of_one():
    model = relu_model()
    model.graph.inputs[0].shape = ir.Shape([1, 5])
    x = np.arange(15, dtype=np.float32).reshape(3, 5)
    assert calibrate(model, {"x": x}, ["v0_0"], method="minmax")["v0_0"] == Range(0.0, 14.0)


@pytest.mark.parametrize("method", METHODS)
def test_same_samples_same_ranges_and_the_model_is_untouched(method):
    model = residual()
    before = ir.to_proto(model).SerializeToString()
    x = np.random.default_rng(1).normal(size=(16, 3, 12, 12)).astype(np.float32)
    values = ["x", "v1_0", "v5_0"]
    first = calibrate(model, (x,), values, method=method)
    assert first == calibrate(model, (x,), values, method=method)
    assert ir.to_proto(model).SerializeToString() == before


ones = np.ones((4, 5), np.float32)
BAD_SAMPLES = {
    "two arrays for one input": (
        (ones, ones), r"the model has the inputs \['x'\], the data gives 2 arrays"
    ),
    "wrong name": ({"image": ones}, r"the data gives \['image'\]"),
    "no sample": ((ones[:0],), "at least 1"),
    "wrong width": (
        (np.ones((4, 6), np.float32),),
        r"input 'x' takes the shape \['samples', 5\], the data has \[4, 6\]",
    ),
    "wrong rank": ((np.ones((4, 5, 1), np.float32),), r"the data has \[4, 5, 1\]"),
    "not a number": ((ones * np.nan,), "activation 'x' reaches nan"),
    "infinite": ((ones * np.inf,), "activation 'x' reaches inf"),
}  # fmt: skip


@pytest.mark.parametrize(("samples", "message"), BAD_SAMPLES.values(), ids=BAD_SAMPLES)
def test_samples_that_do_not_fit(samples, message):
    with pytest.raises(DataError, match=message):
        calibrate(relu_model(), samples, ["x", "v0_0"], method="minmax")
