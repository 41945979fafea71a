"""Heads on inner values: what they see, and how they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.exit_points import Point
from trimtab.compress.fine_tune import Training
from trimtab.compress.teacher import Teacher
from trimtab.graph.exits import Head

if TYPE_CHECKING:
    from trimtab.evaluate.data import Split

Array = NDArray[Any]


def pooled_values(
    model: ir.Model, points: Sequence[Point], split: Split
) -> tuple[list[Array], Array]:
    """Returns what heads see, and what the model answers.

    Args:
        model: A classifier.
        points: Where heads are.
        split: The samples.

    Returns:
        Values at each point, averaged over positions, shape (samples, channels); and the model's
        logits, shape (samples, classes).
    """
    teacher = Teacher(model, [point.value for point in points])
    pieces = []
    for batch in split.batches(256):
        *values, logits = teacher(batch)
        means = [v.mean(axis=p.axes) if p.axes else v for p, v in zip(points, values, strict=True)]
        pieces.append([*means, logits])
    *pooled, answers = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return pooled, answers


def train_head(
    point: Point, features: Array, taught: tuple[Array, Array], training: Training, seed: int
) -> Head:
    """Trains one head as a model of its own, whose inputs are the pooled values.

    Args:
        point: Where it is.
        features: Pooled values, shape (samples, channels).
        taught: The whole model's logits, and the right classes.
        training: How long and how fast.
        seed: Of the order of samples.
    """
    from trimtab.engine.train import fine_tune

    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    network = _dense(features.shape[1], taught[0].shape[1])
    normal = ((features - mean) / spread).astype(np.float32)
    fine_tune(network, [normal], *taught, training.schedule(seed))
    matrix, bias = (network.graph.initializers[name].const_value for name in ("weight", "bias"))
    assert matrix is not None
    assert bias is not None
    weight = matrix.numpy() / spread[:, None]
    offset = bias.numpy() - mean @ weight
    return Head(point.value, point.axes, weight.astype(np.float32), offset.astype(np.float32))


def _dense(channels: int, classes: int) -> ir.Model:
    """Returns the graph of a head, without its pooling: a dense layer of zeros."""
    from onnx import TensorProto, helper, numpy_helper

    parts = {"weight": (channels, classes), "bias": (classes,)}
    model: ir.Model = ir.from_proto(
        helper.make_model(
            helper.make_graph(
                [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], name="head")],
                "head",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
                [
                    numpy_helper.from_array(np.zeros(shape, np.float32), name)
                    for name, shape in parts.items()
                ],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
    )
    return model


def softmax(logits: Array) -> Array:
    """Returns class probabilities, shape (samples, classes)."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares
