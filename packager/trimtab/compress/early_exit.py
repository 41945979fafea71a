"""The step `early_exit`: answer easy inputs early (Teerapittayanon et al. 2016, "BranchyNet").

Heads are trained on inner values of the model, which itself stays as it is: an input that takes no
exit gets exactly the answer that it got before. The threshold from which on a head is trusted is
the lowest with which held-back samples are answered as well as by the whole model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.exit_heads import pooled_values, softmax, train_head
from trimtab.compress.exit_plan import Plan, choose_threshold
from trimtab.compress.exit_points import find_points
from trimtab.compress.fine_tune import Training
from trimtab.errors import DataError, ModelError
from trimtab.graph.access import shape_of
from trimtab.graph.count import count_model
from trimtab.graph.exits import insert_exits
from trimtab.graph.run import GraphRunner

if TYPE_CHECKING:
    from trimtab.compress.context import Context
    from trimtab.evaluate.data import Dataset

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


def apply(model: ir.Model, step: EarlyExit, context: Context) -> ir.Model:
    """Returns the model with exits, which takes one sample at a time.

    Args:
        model: A classifier with one output.
        step: Where exits are, and how sure they must be.
        context: Gives the data and the seed. Measured costs are logged.

    Raises:
        DataError: There is no data, or too little, or labels are no classes of the model.
        ModelError: The model is no classifier; there is no such value; or no exit helps.
    """
    if context.dataset is None:
        raise DataError("early_exit needs data: give --data (labels are not needed)")
    _check_task(model, context.dataset)
    points = find_points(model, step.exits)
    _check_labels(model, context.dataset.train.labels)
    split = context.dataset.train
    order = np.random.default_rng(context.seed).permutation(len(split))
    count = round(len(order) * _HELD_BACK)
    if count < 2:
        raise DataError(f"early_exit needs samples to train on and to check; got {len(order)}")
    held_back, training = order[:count], order[count:]
    pooled, answers = pooled_values(model, points, split)
    goal = answers.argmax(axis=1) if split.labels is None else split.labels
    taught = (answers[training], goal[training])
    schedule = Training(epochs=step.epochs, learning_rate=step.learning_rate, temperature=1.0)
    heads = [
        train_head(point, features[training], taught, schedule, context.seed)
        for point, features in zip(points, pooled, strict=True)
    ]
    asked = [
        softmax(features[held_back] @ head.matrix + head.bias)
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
    insert_exits(
        result,
        plan.heads,
        plan.choice.threshold,
        softmax=_end(model) == "Softmax",
        shares=plan.choice.shares,
    )
    _report_time(model, result, split.take(held_back), context)
    return result


def _end(model: ir.Model) -> str | None:
    producer = model.graph.outputs[0].producer()
    return None if producer is None else producer.op_type


def _check_task(model: ir.Model, dataset: Dataset) -> None:
    """Checks that the largest output is the answer: that of others, no head can be sure of.

    Raises:
        ModelError: The model does something else.
    """
    what = None
    if _end(model) == "Sigmoid":
        what = "its output is independent probabilities (a Sigmoid)"
    elif dataset.task not in (None, "classification"):
        what = f"its task is {dataset.task}"
    elif dataset.train.labels is not None and dataset.train.labels.dtype.kind not in "iu":
        what = f"its labels are {dataset.train.labels.dtype} and no class numbers"
    if what is not None:
        raise ModelError(f"early_exit takes a classifier with one answer a sample; {what}")


def _check_labels(model: ir.Model, labels: Array | None) -> None:
    """Checks that labels are classes of the model.

    Raises:
        DataError: They are not.
    """
    classes = (shape_of(model.graph.outputs[0]) or (0,))[-1] or 0
    if labels is not None and (labels.ndim != 1 or labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"early_exit: labels must be one class number a sample, 0 to {classes - 1}; they have "
            f"the shape {list(labels.shape)} and go from {labels.min()} to {labels.max()}"
        )


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
