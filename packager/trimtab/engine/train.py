"""Fine-tuning: a few epochs of a graph against labels, its teacher, or both.

The original model is the teacher, so that unlabelled data is enough; `trimtab.engine.losses` says
what the loss is, `trimtab.engine.step` what a step does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.feed import Augment, Feed, Teacher
from trimtab.engine.heads import Labels
from trimtab.engine.losses import build_loss
from trimtab.engine.module import GraphModule
from trimtab.engine.schedule import Schedule
from trimtab.engine.step import Objective, Trainer
from trimtab.errors import DataError, ModelError
from trimtab.evaluate.data import Column
from trimtab.progress import report
from trimtab.tensorflow_setup import import_tensorflow, seed_everything

Array = NDArray[Any]

_VALIDATION_SHARE = 0.1
"""Held back from training to choose the epoch whose weights are kept."""


@dataclass(frozen=True)
class EpochLoss:
    """Mean losses of one epoch; `validation` is on the samples held back."""

    epoch: int
    training: float
    validation: float


@dataclass(frozen=True)
class Augmentation:
    """Changes to inputs while training, and who answers for them.

    Attributes:
        change: Takes and returns a batch of inputs.
        teacher: Answers what came of it, as `targets` answer the samples.
    """

    change: Augment
    teacher: Teacher


def fine_tune(
    model: ir.Model,
    samples: Sequence[Column],
    targets: Array | Sequence[Array],
    labels: Labels,
    schedule: Schedule,
    *,
    augmentation: Augmentation | None = None,
    on_epoch: Callable[[EpochLoss], None] = lambda _: None,
) -> list[EpochLoss]:
    """Trains `model` in place and keeps the weights of its best epoch.

    Weights that are marked keep their zeros or their clusters; see `trimtab.engine.hold`.

    Args:
        model: The graph. A Softmax or Sigmoid at its end is left out of the loss, which works on
            what goes into it.
        samples: One column per input, samples along axis 0; read batch by batch.
        targets: The teacher's answers for each output: what `losses.heads` finds in its graph,
            per sample; one array if there is one output.
        labels: Class numbers or values to predict, or None.
        schedule: How long and how fast.
        augmentation: Changes to the inputs of training batches.
        on_epoch: Called after every epoch.

    Returns:
        The losses of every epoch, the state before the first one included as epoch 0.

    Raises:
        UnsupportedOperatorError: The engine lacks operators of the graph.
        ModelError: The graph has a fixed batch.
        DataError: There are too few samples, or targets or labels do not fit the outputs.
    """
    answers = [targets] if isinstance(targets, np.ndarray) else list(targets)
    objective, goals = build_loss(
        model,
        answers,
        labels,
        temperature=schedule.temperature,
        label_share=schedule.label_share,
    )
    fitted = goals[len(answers) :]
    if augmentation is None:
        feed = Feed(samples, answers, fitted)
    else:
        feed = Feed(samples, augmentation.teacher, fitted, augmentation.change)
    return train(model, objective, feed, schedule, on_epoch=on_epoch)


def train(
    model: ir.Model,
    objective: Objective,
    feed: Feed,
    schedule: Schedule,
    *,
    on_epoch: Callable[[EpochLoss], None] = lambda _: None,
) -> list[EpochLoss]:
    """Trains `model` in place for any objective; see `fine_tune`.

    After an interrupt (Ctrl-C), which goes on to the caller, `model` has the best epoch so far.
    Training ends where a loss is no longer finite.

    Raises:
        UnsupportedOperatorError: The engine lacks operators of the graph.
        ModelError: The graph has a fixed batch, or its first epoch already gives no finite loss.
        DataError: There are too few samples.
        KeyboardInterrupt: Somebody has had enough.
    """
    check_trainable(model, len(feed))
    import_tensorflow()
    seed_everything(schedule.seed)
    order = np.random.default_rng(schedule.seed).permutation(len(feed))
    held_back = max(1, round(len(order) * _VALIDATION_SHARE))
    validation, training = order[:held_back], order[held_back:]
    module = GraphModule(model, trainable=True)
    trainer = Trainer(module, objective, feed, training, schedule)
    history = [EpochLoss(0, float("nan"), trainer.evaluate(validation))]
    best, best_epoch = trainer.state(), history[0]
    try:
        for epoch in range(1, schedule.epochs + 1):
            loss = trainer.train_epoch(epoch)
            history.append(EpochLoss(epoch, loss, trainer.evaluate(validation)))
            if not np.isfinite([loss, history[-1].validation]).all():
                _check_not_first(history, schedule)
                break
            if history[-1].validation <= best_epoch.validation:
                best, best_epoch = trainer.state(), history[-1]
            on_epoch(history[-1])
            if schedule.patience is not None and epoch - best_epoch.epoch >= schedule.patience:
                break
    finally:
        trainer.finish(best)
        report("training", 1, 1)
    return history


def _check_not_first(history: Sequence[EpochLoss], schedule: Schedule) -> None:
    """Refuses to end with what training began with, as if that were its result."""
    if len(history) > 2:
        return
    rate = "its default" if schedule.learning_rate is None else f"{schedule.learning_rate:g}"
    raise ModelError(
        f"training went wrong in its first epoch: the loss was {history[0].validation:.4g} and is "
        f"no longer finite with learning_rate at {rate}; lower it, or look for values in the data "
        "that are far too large"
    )


def check_trainable(model: ir.Model, samples: int) -> None:
    """Checks what can be checked before any work.

    Raises:
        ModelError: The graph has a fixed batch.
        DataError: There are too few samples.
    """
    for value in model.graph.inputs:
        if value.shape and isinstance(value.shape[0], int):
            raise ModelError(
                f"input {value.name!r} has a fixed batch of {value.shape[0]}; to fine-tune the "
                "model, export it with a free first dimension"
            )
    if samples < 2:
        raise DataError(f"fine-tuning needs samples to train on and one to check; got {samples}")
