"""Four-bit weights beside 8-bit activations run in integer kernels, with the same numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.quant_graphs import GRAPHS
from support.techniques import context, samples, small_dataset
from trimtab.compress.quantize_aware import QuantizeAware, apply
from trimtab.compress.quantize_weights import QuantizeWeights
from trimtab.compress.quantize_weights import apply as quantize_weights
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph
from trimtab.targets import export
from trimtab.targets.narrow_codes import widen_narrow_codes
from trimtab.targets.operators import PLACERS

KERNELS = {"QLinearConv", "QGemm", "Convolution", "FullyConnected"}


def four_bits() -> ir.Model:
    model = clean(GRAPHS["residual"]())
    return apply(
        model, QuantizeAware(epochs=0, weight_bits=4), context(model, small_dataset(model))
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_layers_have_integer_kernels(target, tmp_path):
    model = four_bits()
    exported = export(model, target, tmp_path, samples=tuple(samples(model, 8)))
    kernels = [each for each in PLACERS[target](exported.path, model) if each.operator in KERNELS]
    assert len(kernels) >= 3
    assert all("int8" in each.dtype for each in kernels), kernels
    wide = model.clone()
    assert widen_narrow_codes(wide) >= 4
    for actual, expected in zip(
        run_graph(wide, samples(model)), run_graph(model, samples(model)), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_weights_beside_float_activations_stay_narrow():
    model = clean(GRAPHS["residual"]())
    small = quantize_weights(model, QuantizeWeights(bits=4), context(model))
    assert widen_narrow_codes(small) == 0
