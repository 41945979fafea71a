"""The step `early_exit`: answer easy inputs early (Teerapittayanon et al. 2016, "BranchyNet").

Heads are trained on inner values of the model, which itself stays as it is: an input that takes no
exit gets exactly the answer that it got before. The threshold from which on a head is trusted is
the lowest with which held-back samples are answered as well as by the whole model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.exit_points import Point, find_points
from trimtab.compress.fine_tune import Training
from trimtab.compress.teacher import Teacher
from trimtab.errors import DataError, ModelError
from trimtab.graph.count import count_model
from trimtab.graph.exits import Head, insert_exits
from trimtab.graph.run import GraphRunner

if TYPE_CHECKING:
    from trimtab.compress.context import Context
    from trimtab.evaluate.data import Split

Array = NDArray[Any]

_HELD_BACK = 0.25
"""Share of the samples on which the threshold is chosen; a tenth of a small set would be a handful
of hard inputs, and those decide."""

_TIMED_SAMPLES = 200


class EarlyExit(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where exits are, and how sure they must be.

    Attributes:
        exits: Names of inner values to put heads on, which `trimtab inspect` shows; by default the
            one that saves most, of those after about a quarter, a half and three quarters of the
            multiply-accumulates.
        max_drop: What may be lost on held-back samples: of accuracy, or of agreement with the whole
            model where there are no labels.
        epochs: Passes of the heads' training.
        learning_rate: Of the heads, at its highest.
    """

    exits: tuple[str, ...] = ()
    max_drop: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 30
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01


@dataclass(frozen=True)
class Choice:
    """The threshold, and what it does on held-back samples.

    Attributes:
        threshold: Probability above which a head is trusted; above 1 no head ever is.
        shares: Of samples that leave at each exit.
        score: Accuracy, or agreement with the whole model, with exits.
        whole: The same without.
    """

    threshold: float
    shares: tuple[float, ...]
    score: float
    whole: float


@dataclass(frozen=True)
class Plan:
    """Exits that may be put in.

    Attributes:
        points: Where they are.
        heads: One for each.
        choice: The threshold, and what it does.
    """

    points: Sequence[Point]
    heads: Sequence[Head]
    choice: Choice

    def average_macs(self, whole: int) -> float:
        """Returns the mean multiply-accumulates of a held-back sample.

        Args:
            whole: Those of the whole model. What heads add, a dense layer each, is left out.
        """
        early = zip(self.choice.shares, self.points, strict=True)
        stays = 1 - sum(self.choice.shares)
        return stays * whole + sum(share * point.macs for share, point in early)


def apply(model: ir.Model, step: EarlyExit, context: Context) -> ir.Model:
    """Returns the model with exits, which takes one sample at a time.

    Args:
        model: A classifier with one output.
        step: Where exits are, and how sure they must be.
        context: Gives the data and the seed. Measured costs are logged.

    Raises:
        DataError: There is no data, or too little.
        ModelError: The model is no classifier; there is no such value; or no exit helps.
    """
    if context.dataset is None:
        raise DataError("early_exit needs data: give --data (labels are not needed)")
    points = find_points(model, step.exits)
    split = context.dataset.train
    order = np.random.default_rng(context.seed).permutation(len(split))
    count = round(len(order) * _HELD_BACK)
    if count < 2:
        raise DataError(f"early_exit needs samples to train on and to check; got {len(order)}")
    held_back, training = order[:count], order[count:]
    pooled, answers = _run(model, points, split)
    goal = answers.argmax(axis=1) if split.labels is None else split.labels
    taught = (answers[training], goal[training])
    heads = [
        _train(point, features[training], taught, step, context.seed)
        for point, features in zip(points, pooled, strict=True)
    ]
    asked = [
        _softmax(features[held_back] @ head.matrix + head.bias)
        for features, head in zip(pooled, heads, strict=True)
    ]
    options = [tuple(range(len(points)))] if step.exits else [(i,) for i in range(len(points))]
    plans = [
        Plan(
            [points[i] for i in option],
            [heads[i] for i in option],
            choose_threshold(
                [asked[i] for i in option], answers[held_back], goal[held_back], step.max_drop
            ),
        )
        for option in options
    ]
    whole_macs = count_model(model).macs
    plan = min(plans, key=lambda plan: plan.average_macs(whole_macs))
    _report_plan(plan, whole_macs, context)
    result = model.clone()
    insert_exits(result, plan.heads, plan.choice.threshold, softmax=_ends_in_softmax(model))
    _report_time(model, result, split.take(held_back), context)
    return result


def choose_threshold(asked: Sequence[Array], whole: Array, goal: Array, max_drop: float) -> Choice:
    """Finds the lowest threshold from which on, however high, no more than allowed is lost.

    Args:
        asked: Probabilities of each head, shape (samples, classes).
        whole: Answers of the whole model, the same shape.
        goal: Right classes, shape (samples).
        max_drop: The share of samples that may be answered wrongly in addition.
    """
    best = [head.max(axis=1) for head in asked]
    right = [head.argmax(axis=1) == goal for head in asked]
    right_at_end = whole.argmax(axis=1) == goal
    allowed = right_at_end.sum() - max_drop * len(goal)
    threshold = 2.0
    for candidate in np.unique(np.concatenate(best))[::-1]:
        # Leaving asks for more than the threshold, so this is the one just below.
        lower = float(np.nextafter(np.float32(candidate), np.float32(0)))
        if _taken(best, right, right_at_end, lower)[0].sum() < allowed:
            break
        threshold = lower
    outcome, shares = _taken(best, right, right_at_end, threshold)
    return Choice(threshold, shares, float(outcome.mean()), float(right_at_end.mean()))


def _taken(
    best: Sequence[Array], right: Sequence[Array], at_end: Array, threshold: float
) -> tuple[Array, tuple[float, ...]]:
    """Returns which samples are answered rightly, and how many leave at each exit."""
    outcome, inside = at_end.copy(), np.ones(len(at_end), np.bool_)
    shares = []
    for sureness, correct in zip(best, right, strict=True):
        leaves = inside & (sureness > threshold)
        outcome[leaves] = correct[leaves]
        inside &= ~leaves
        shares.append(float(leaves.mean()))
    return outcome, tuple(shares)


def _run(model: ir.Model, points: Sequence[Point], split: Split) -> tuple[list[Array], Array]:
    """Returns the pooled values at each point, and the model's logits."""
    teacher = Teacher(model, [point.value for point in points])
    pieces = []
    for batch in split.batches(256):
        *values, logits = teacher(batch)
        means = [v.mean(axis=p.axes) if p.axes else v for p, v in zip(points, values, strict=True)]
        pieces.append([*means, logits])
    *pooled, answers = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return pooled, answers


def _train(
    point: Point, features: Array, taught: tuple[Array, Array], step: EarlyExit, seed: int
) -> Head:
    """Trains one head as a model of its own, whose inputs are the pooled values.

    Args:
        point: Where it is.
        features: Pooled values, shape (samples, channels).
        taught: The whole model's logits, and the right classes.
        step: How long and how fast.
        seed: Of the order of samples.
    """
    from trimtab.engine.train import fine_tune

    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    network = _dense(features.shape[1], taught[0].shape[1])
    schedule = Training(epochs=step.epochs, learning_rate=step.learning_rate, temperature=1.0)
    normal = ((features - mean) / spread).astype(np.float32)
    fine_tune(network, [normal], *taught, schedule.schedule(seed))
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


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _ends_in_softmax(model: ir.Model) -> bool:
    producer = model.graph.outputs[0].producer()
    return producer is not None and producer.op_type == "Softmax"


def _report_plan(plan: Plan, whole: int, context: Context) -> None:
    """Logs what the exits save on held-back samples.

    Raises:
        ModelError: They save nothing.
    """
    if not any(plan.choice.shares):
        raise ModelError(
            "early_exit: no held-back sample can leave early within the allowed loss; put exits "
            f"later than {', '.join(p.value for p in plan.points)}, or allow a `max_drop`"
        )
    for point, share in zip(plan.points, plan.choice.shares, strict=True):
        context.log(
            f"exit at {point.value}, after {point.macs / whole:.0%} of the multiply-accumulates: "
            f"{share:.1%} of held-back samples leave"
        )
    context.log(
        f"held back: {plan.choice.score:.4f} right with exits, {plan.choice.whole:.4f} without; "
        f"{plan.average_macs(whole) / whole:.1%} of the multiply-accumulates on average"
    )


def _report_time(
    model: ir.Model, result: ir.Model, samples: Sequence[Array], context: Context
) -> None:
    """Logs the time of both models, measured here."""
    with_exits, without = (_time_us(m, samples) for m in (result, model))
    context.log(
        f"measured here, one sample at a time: {with_exits:.0f} us on average with exits, "
        f"{without:.0f} us without ({with_exits / without:.0%})"
    )


def _time_us(model: ir.Model, samples: Sequence[Array]) -> float:
    """Returns the mean time of a sample in ONNX Runtime, in microseconds; best of five rounds.

    The mean, because the time of a model with exits depends on the sample; the best round, because
    whatever else this machine does only adds.
    """
    runner = GraphRunner(model)
    singles = [[array[i : i + 1] for array in samples] for i in range(len(samples[0]))]
    singles = singles[:_TIMED_SAMPLES]
    rounds = []
    for _ in range(6):  # the first one warms up
        start = time.perf_counter()
        for single in singles:
            runner.run(single)
        rounds.append(time.perf_counter() - start)
    return min(rounds[1:]) / len(singles) * 1e6
