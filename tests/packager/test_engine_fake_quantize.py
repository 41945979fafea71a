"""Rounding with a learned step size: its gradients, and the bounds that scales are kept to."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.quant_graphs import TrainedLike
from trimtab.compress.affine import Range
from trimtab.compress.fake_quantized import train_form, weight_places
from trimtab.compress.placement import quantized_groups
from trimtab.compress.quantize import quantize
from trimtab.graph.access import constant

pytestmark = pytest.mark.slow

GRIDS = {
    "symmetric": (0.1, -7, 7),
    "with a zero point": (0.05, -20, 235),
    "half of it cut off": (0.02, 0, 15),
}


def gradients(x: np.ndarray, step: np.ndarray, low: int, high: int, upstream: np.ndarray):
    import tensorflow as tf

    from trimtab.engine.operators.fake_quantize import fake_quantize

    data, size = tf.constant(x), tf.constant(step)
    with tf.GradientTape() as tape:
        tape.watch([data, size])
        result = fake_quantize(data, size, low, high)
        loss = tf.reduce_sum(result * upstream)
    return result.numpy(), *(g.numpy() for g in tape.gradient(loss, [data, size]))


def reference(x: np.ndarray, step: np.ndarray, low: int, high: int, upstream: np.ndarray):
    """Esser et al. 2020, equations 1, 2, 3 and 5, number by number."""
    result, to_x, to_step = np.zeros_like(x), np.zeros_like(x), np.zeros_like(step)
    for place in np.ndindex(x.shape):
        at = tuple(min(i, size - 1) for i, size in zip(place, step.shape, strict=False))
        ratio = x[place] / step[at]
        if ratio <= low or ratio >= high:
            code = slope = low if ratio <= low else high
        else:
            code, slope = np.rint(ratio), np.rint(ratio) - ratio
            to_x[place] = upstream[place]
        result[place] = code * step[at]
        to_step[at] += upstream[place] * slope
    return result, to_x, to_step


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shape", [(), (1, 6)], ids=["one scale", "one for each channel"])
def test_gradients_are_those_of_the_paper(grid, shape):
    size, low, high = GRIDS[grid]
    random = np.random.default_rng(3)
    x, upstream = random.normal(size=(2, 40, 6)).astype(np.float32)
    step = np.asarray(size * random.uniform(0.5, 2, shape), np.float32)
    actual = gradients(x, step, low, high, upstream)
    for found, expected in zip(actual, reference(x, step, low, high, upstream), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_gradients_are_slopes_of_the_function_whose_rounding_is_a_fixed_offset(grid):
    size, low, high = GRIDS[grid]
    x = np.random.default_rng(5).normal(size=50)
    offset = np.rint(x / size) - x / size

    def smooth(x: np.ndarray, step: float) -> np.ndarray:
        inside = (x / step >= low) & (x / step <= high)
        return step * np.where(inside, x / step + offset, np.clip(x / step, low, high))

    nudge = 1e-6
    slopes = (smooth(x, size + nudge) - smooth(x, size - nudge)) / (2 * nudge)
    to_x = (smooth(x + nudge, size) - smooth(x - nudge, size)) / (2 * nudge)
    for index, slope in enumerate(slopes):
        one = x[index : index + 1].astype(np.float32)
        _, by_x, by_step = gradients(one, np.float32(size), low, high, np.ones(1, np.float32))
        assert by_step == pytest.approx(slope, abs=2e-3)
        assert by_x[0] == pytest.approx(to_x[index], abs=2e-3)


def learned(bits: int = 8) -> ir.Model:
    """One convolution whose weights and input are rounded, its second channel dead."""
    b = TrainedLike(3, 6, 6)
    model = b.classifier(b.conv("x", 3, 4), 4)
    kernel = weight_places(model.graph)[0].value
    array = constant(kernel).copy()
    array[1] = 0
    kernel.const_value = ir.tensor(array, name=kernel.name)
    names = [name for group in quantized_groups(model.graph) for name in group]
    ranges = {name: Range(-3.0, 3.0) for name in names}
    return train_form(quantize(model, ranges), bits)


def steps_of_descent(optimizer: str, rate: float, count: int):
    """Trains towards noise; returns the module and what its scales were."""
    import keras
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    module = GraphModule(learned(), trainable=True)
    before = {name: array.copy() for name, array in scales(module.model).items()}
    random = np.random.default_rng(0)
    rule = keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": rate}})
    rule.build(module.variables)
    for _ in range(count):
        data = tf.constant(random.normal(size=(8, 3, 6, 6)).astype(np.float32))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(module([data])[0] - 3.0))
        found = tape.gradient(loss, [variable.value for variable in module.variables])
        rule.apply(found, module.variables)
        module.settle()
    module.store()
    return module, before


def scales(model: ir.Model) -> dict[str, np.ndarray]:
    found = {}
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            found[node.inputs[1].name] = constant(node.inputs[1])
    return found


def test_a_module_stores_the_scales_that_it_was_given():
    module, before = steps_of_descent("SGD", 0.1, 0)
    for name, array in scales(module.model).items():
        np.testing.assert_allclose(array, before[name], rtol=1e-6)


@pytest.mark.parametrize("rate", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_scales_stay_positive_finite_and_within_sense(optimizer, rate):
    module, before = steps_of_descent(optimizer, rate, 4)
    changed = False
    for name, array in scales(module.model).items():
        assert np.isfinite(array).all(), name
        assert (array > 0).all(), name
        ratio = array / before[name]
        assert (ratio > 1 / 257).all(), name
        assert (ratio < 257).all(), name
        changed |= bool((np.abs(ratio - 1) > 1e-6).any())
    assert changed


def test_the_largest_weight_of_a_channel_keeps_the_largest_code():
    module, _ = steps_of_descent("Adam", 0.03, 6)
    pairs = [node for node in module.model.graph if node.op_type == "QuantizeLinear"]
    kernel = next(node for node in pairs if constant(node.inputs[0]) is not None)
    weights, scale = (constant(value) for value in kernel.inputs[:2])
    largest = np.abs(weights).max(axis=(1, 2, 3)) / scale
    assert (largest[[0, 2, 3]] > 126.9).all()


def test_a_step_of_descent_changes_a_scale_by_rate_times_its_gradient():
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    module = GraphModule(learned(), trainable=True)
    for name, before in scales(module.model).items():
        upstream = np.linspace(1, 2, before.size).astype(np.float32).reshape(before.shape)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(module.scales.get(name).tensor * upstream)
        slope = tape.gradient(loss, [v.value for v in module.scales.variables])
        given = next(g for g in slope if g is not None)
        rate = 1e-3 * float(before.min()) ** 2
        change = before * np.expm1(-rate * given.numpy())
        np.testing.assert_allclose(change, -rate * upstream, rtol=1e-2)
