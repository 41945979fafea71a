"""What outputs are found to be, which labels fit them, and where activations end up."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from support.quant_graphs import TrainedLike
from trimtab.engine.heads import Head, fit_labels, heads, per_output
from trimtab.errors import DataError
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph


def ending(activation: str, mover: str, **attributes: object) -> ir.Model:
    """Maps of 5 channels, an activation over the channels, and what a converter puts behind."""
    b = TrainedLike(3, 8, 8)
    x = b.op(activation, b.conv("x", 3, 5), **({"axis": 1} if activation == "Softmax" else {}))
    if mover == "Reshape":
        return b.build(b.op("Reshape", x, b.constant([0, 5, 64])))
    return b.build(b.op(mover, x, **attributes) if mover else x)


@pytest.mark.parametrize(
    ("activation", "mover", "attributes", "axis"),
    [
        ("Softmax", "Transpose", {"perm": [0, 2, 3, 1]}, 3),
        ("Softmax", "Transpose", {"perm": [1, 0, 2, 3]}, 0),
        ("Sigmoid", "Transpose", {"perm": [0, 2, 3, 1]}, None),
        ("Sigmoid", "Reshape", {}, None),
    ],
)
def test_activations_end_up_last(activation, mover, attributes, axis):
    model = ending(activation, mover, **attributes)
    cleaned = clean(model)
    last = cleaned.graph.outputs[0].producer()
    assert last.op_type == activation
    if axis is not None:
        assert last.attributes["axis"].as_int() == axis
    assert heads(cleaned)[0].value is last.inputs[0]
    assert cleaned.graph.outputs[0].name == model.graph.outputs[0].name
    x = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    expected, got = (run_graph(each, [x])[0] for each in (model, cleaned))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_what_mixes_positions_stays_in_front():
    model = clean(ending("Softmax", "Reshape"))
    assert model.graph.outputs[0].producer().op_type == "Reshape"
    assert heads(model)[0].kind == "values"
    b = TrainedLike(3, 8, 8)
    x = b.op("Sigmoid", b.conv("x", 3, 5))
    gated = clean(b.build(b.op("Transpose", b.op("Mul", x, x), perm=[0, 2, 3, 1])))
    assert heads(gated)[0].kind == "values"


@pytest.mark.parametrize(
    ("shape", "axis", "labels", "blank"),
    [
        ((6, 4), -1, (6,), None),
        ((6, 7, 4), -1, (6, 7), None),
        ((6, 8, 8, 4), -1, (6, 8, 8), None),
        ((6, 4, 8, 8), 1, (6, 8, 8), None),
        ((6, 7, 4), -1, (6, 3), 3),
    ],
)
def test_whole_numbers_are_classes_of_positions(shape, axis, labels, blank):
    output = ir.Value(name="y")
    given = np.random.default_rng(0).integers(0, 3, labels)
    if len(labels) > 1:
        given[0, -1] = -1  # padding
    kind = "softmax" if axis == 1 else "values"
    head, fitted, found = fit_labels(Head(output, kind, axis), given, np.zeros(shape, np.float32))
    assert (head.kind, head.axis, found) == ("softmax", axis, blank)
    np.testing.assert_array_equal(fitted, given)


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((6, 4), np.full(6, 4), "6 labels of output 'y' are outside 0 to 3, such as 4"),
        ((6, 4), np.full(6, -1), "outside 0 to 3, such as -1"),
        ((6, 7, 4), np.full((6, 7), -2), "outside 0 to 3, such as -2"),
        ((6, 4), np.zeros(5, np.int64), r"must have the shape \[6\] and be whole numbers; got"),
        ((6, 8, 8, 4), np.zeros((6, 8)), r"must have the shape \[6, 8, 8\] and be whole"),
    ],
)
def test_labels_that_do_not_fit_are_refused(shape, labels, message):
    head = Head(ir.Value(name="y"), "softmax")
    with pytest.raises(DataError, match=message):
        fit_labels(head, labels, np.zeros(shape, np.float32))


def test_labels_alone_are_of_the_first_output():
    labels = np.zeros(3)
    assert per_output(labels, 2)[1] is None
    with pytest.raises(DataError, match="2 outputs, and there are labels for 3"):
        per_output([labels, labels, None], 2)


@pytest.mark.slow
def test_losses_of_positions_leave_padding_out():
    import tensorflow as tf

    from trimtab.engine.losses import Loss, Term

    random = np.random.default_rng(2)
    logits = random.normal(size=(4, 3, 6)).astype(np.float32)  # three classes along axis 1
    labels = random.integers(0, 3, (4, 6)).astype(np.int32)
    labels[:, 4:] = -1
    head = Head(ir.Value(name="y"), "softmax", 1)
    term = Term(head, labelled=True, target_scale=1.0, label_scale=1.0)
    loss = Loss([term], temperature=1.0, label_share=1.0)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean([logs[i, labels[i, j], j] for i in range(4) for j in range(4)])
    got = loss([tf.constant(logits)], [tf.constant(logits), tf.constant(labels)])
    assert float(got) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_sequences_of_tokens_are_met_over_all_alignments():
    import tensorflow as tf

    from trimtab.engine.losses import Loss, Term

    head = Head(ir.Value(name="y"), "softmax")
    term = Term(head, labelled=True, target_scale=1.0, label_scale=1.0, blank=2)
    loss = Loss([term], temperature=1.0, label_share=1.0)
    chances = np.array([[[0.6, 0.1, 0.3], [0.2, 0.5, 0.3]]], np.float32)
    labels = np.array([[0, -1]], np.int32)
    # Of two positions, token 0 alone is 0-0, 0-blank or blank-0.
    chance = 0.6 * 0.2 + 0.6 * 0.3 + 0.3 * 0.2
    got = loss([tf.math.log(chances)], [tf.constant(chances), tf.constant(labels)])
    assert float(got) == pytest.approx(-np.log(chance), rel=1e-4)
