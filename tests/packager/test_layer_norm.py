"""Layer norms in the forms that exporters write out become one operator, or stay as they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import CLASSES, GraphBuilder
from support.pruning import outputs
from trimtab.graph.clean import clean

WIDTH = 6
EPSILON = 1e-3


class NormBuilder(GraphBuilder):
    """Writes norms along one axis."""

    def mean(self, x: str, axis: int) -> str:
        return self.op("ReduceMean", x, axes=[axis])

    def number(self, value: float) -> str:
        return self.constant(value, np.float32)

    def moments(self, x: str, axis: int) -> tuple[str, str, str]:
        """Mean, what is left without it, and the square root of variance and epsilon."""
        mean = self.mean(x, axis)
        centred = self.op("Sub", x, mean)
        squares = self.op("Pow", centred, self.number(2))
        variance = self.op("Add", self.mean(squares, axis), self.number(EPSILON))
        return mean, centred, self.op("Sqrt", variance)

    def vector(self, axis: int, rank: int) -> str:
        return self.weight(*[WIDTH if i == axis % rank else 1 for i in range(rank)])

    def finish(self, x: str) -> ir.Model:
        x = self.op("Flatten", x)
        return self.build(self.dense(x, WIDTH * 4, CLASSES))


def divided(axis: int = -1, scale: bool = True, bias: bool = True) -> ir.Model:
    """As PyTorch writes it."""
    b = NormBuilder(*((4, WIDTH) if axis == -1 else (WIDTH, 4)))
    _, centred, root = b.moments("x", axis)
    x = b.op("Div", centred, root)
    x = b.op("Mul", x, b.vector(axis, 3)) if scale else x
    return b.finish(b.op("Add", x, b.vector(axis, 3)) if bias else x)


def scaled(axis: int = -1, scale: bool = True) -> ir.Model:
    """As TensorFlow writes it."""
    b = NormBuilder(*((4, WIDTH) if axis == -1 else (WIDTH, 4)))
    mean, _, root = b.moments("x", axis)
    factor = b.op("Reciprocal", root)
    factor = b.op("Mul", factor, b.vector(axis, 3)) if scale else factor
    shift = b.op("Mul", b.op("Neg", mean), factor)
    shift = b.op("Add", shift, b.vector(axis, 3))
    return b.finish(b.op("Add", b.op("Mul", "x", factor), shift))


FORMS = {
    "divided": divided,
    "divided_without_bias": lambda: divided(bias=False),
    "divided_without_scale": lambda: divided(scale=False),
    "divided_bare": lambda: divided(scale=False, bias=False),
    "divided_channels_first": lambda: divided(axis=1),
    "scaled": scaled,
    "scaled_without_scale": lambda: scaled(scale=False),
    "scaled_channels_first": lambda: scaled(axis=1),
}


@pytest.mark.parametrize("form", FORMS)
def test_becomes_one_operator_that_computes_the_same(form: str) -> None:
    model = FORMS[form]()
    cleaned = clean(model)
    left = [node.op_type for node in cleaned.graph]
    assert left.count("LayerNormalization") == 1
    assert not {"Sqrt", "Div", "Reciprocal", "Pow"} & set(left)
    expected = outputs(model)
    np.testing.assert_allclose(
        outputs(cleaned), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def uncentred() -> ir.Model:
    """A root mean square: nothing is subtracted."""
    b = NormBuilder(4, WIDTH)
    squares = b.mean(b.op("Pow", "x", b.number(2)), -1)
    root = b.op("Sqrt", b.op("Add", squares, b.number(EPSILON)))
    return b.finish(b.op("Div", "x", root))


def of_two_means() -> ir.Model:
    """The mean that is subtracted runs along another axis than that of the squares."""
    b = NormBuilder(4, WIDTH)
    centred = b.op("Sub", "x", b.mean("x", 1))
    squares = b.mean(b.op("Mul", centred, centred), -1)
    root = b.op("Sqrt", b.op("Add", squares, b.number(EPSILON)))
    return b.finish(b.op("Div", centred, root))


def cubed() -> ir.Model:
    b = NormBuilder(4, WIDTH)
    centred = b.op("Sub", "x", b.mean("x", -1))
    cubes = b.mean(b.op("Pow", centred, b.number(4)), -1)
    root = b.op("Sqrt", b.op("Add", cubes, b.number(EPSILON)))
    return b.finish(b.op("Div", centred, root))


@pytest.mark.parametrize("make", [uncentred, of_two_means, cubed])
def test_what_is_no_layer_norm_stays(make) -> None:
    model = make()
    cleaned = clean(model)
    assert "LayerNormalization" not in {node.op_type for node in cleaned.graph}
    np.testing.assert_allclose(outputs(cleaned), outputs(model), rtol=1e-5, atol=1e-5)


def test_a_scale_along_another_axis_stays_behind() -> None:
    b = NormBuilder(4, WIDTH)
    _, centred, root = b.moments("x", -1)
    x = b.op("Mul", b.op("Div", centred, root), b.weight(4, 1))
    model = b.finish(x)
    cleaned = clean(model)
    assert {"LayerNormalization", "Mul"} <= {node.op_type for node in cleaned.graph}
    np.testing.assert_allclose(outputs(cleaned), outputs(model), rtol=1e-5, atol=1e-5)


def test_before_the_operator_existed_it_stays() -> None:
    model = divided()
    model.opset_imports[""] = 14
    assert "LayerNormalization" not in {node.op_type for node in clean(model).graph}
