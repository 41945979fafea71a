"""Einsum becomes plain products that compute the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import CLASSES, GraphBuilder
from support.pruning import assert_prunes_exactly, outputs
from support.sequence_graphs import SEQUENCE_GRAPHS
from trimtab.graph.clean import clean
from trimtab.graph.dependencies import analyse


def pooled(b: GraphBuilder, x: str, rank: int, last: int) -> ir.Model:
    x = b.op("ReduceMean", x, axes=list(range(1, rank - 1)), keepdims=0) if rank > 2 else x
    return b.build(b.dense(x, last, CLASSES))


@pytest.mark.parametrize(
    ("equation", "weight", "rank", "last"),
    [
        ("abc,cde->abde", (5, 2, 7), 4, 7),
        ("abc,cde->aebd", (5, 2, 7), 4, 2),
        ("abc,bcd->ad", (4, 5, 3), 2, 3),
        ("abc,cd->adb", (5, 3), 3, 4),
        ("abc,dc->abd", (3, 5), 3, 3),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_layers(equation: str, weight: tuple, rank: int, last: int, swapped: bool) -> None:
    b = GraphBuilder(4, 5)
    operands = ["x", b.weight(*weight)]
    if swapped:
        one, rest = equation.split(",")
        other, result = rest.split("->")
        equation, operands = f"{other},{one}->{result}", operands[::-1]
    check(pooled(b, b.op("Einsum", *operands, equation=equation), rank, last))


@pytest.mark.parametrize(
    ("equation", "last"),
    [("abc,adc->abd", 4), ("abc,adc->adb", 4), ("abc,abd->acd", 5), ("bca,bda->bdc", 4)],
)
def test_products_of_activations(equation: str, last: int) -> None:
    b = GraphBuilder(4, 5)
    check(pooled(b, b.op("Einsum", "x", b.op("Neg", "x"), equation=equation), 3, last))


def check(model: ir.Model) -> None:
    cleaned = clean(model)
    assert "Einsum" not in {node.op_type for node in cleaned.graph}
    np.testing.assert_allclose(outputs(cleaned), outputs(model), rtol=1e-4, atol=1e-5)


def test_other_forms_stay() -> None:
    b = GraphBuilder(4, 5)
    x = b.op("Einsum", "x", b.weight(4, 5, 3), equation="abc,bcd->abd")  # a weight for each step
    model = pooled(b, x, 3, 3)
    assert "Einsum" in {node.op_type for node in clean(model).graph}


def test_heads_of_attention_are_found_after_cleaning() -> None:
    model = SEQUENCE_GRAPHS["einsum_attention"]()
    check(model)
    cleaned = clean(model)
    assert [len(group.classes) for group in analyse(cleaned).groups] == [4, 8]
    assert_prunes_exactly(cleaned)


@pytest.mark.slow
def test_heads_of_a_keras_model_are_found(tmp_path) -> None:
    from trimtab.graph.load import load_model
    from trimtab.tensorflow_setup import import_tensorflow

    import_tensorflow()
    import keras

    source = keras.Input((6, 8))
    layer = keras.layers.MultiHeadAttention(4, 3, bias_initializer="random_normal")
    x = keras.layers.LayerNormalization()(layer(source, source) + source)
    x = keras.layers.GlobalAveragePooling1D()(x)
    keras.Model(source, keras.layers.Dense(CLASSES)(x)).save(tmp_path / "attention.keras")
    model = load_model(tmp_path / "attention.keras")
    assert [len(group.classes) for group in analyse(model).groups] == [4]
    assert_prunes_exactly(model)
