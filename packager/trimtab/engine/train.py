"""Fine-tuning: a few epochs of a graph against labels, its teacher, or both.

The original model is the teacher, so that unlabelled data is enough; `trimtab.engine.losses` says
what the loss is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.hold import Holding
from trimtab.engine.losses import Labels, Loss, build_loss
from trimtab.engine.module import GraphModule
from trimtab.errors import DataError, ModelError
from trimtab.tensorflow_setup import import_tensorflow, seed_everything

Array = NDArray[Any]

_LABEL_SHARE = 0.5
"""Labels and teacher weigh alike."""

_VALIDATION_SHARE = 0.1
"""Held back from training to choose the epoch whose weights are kept."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the samples.
        learning_rate: Of Adam at the start; it falls to zero along half a cosine.
        batch_size: Samples a step.
        temperature: Softening of the teacher's answers.
        seed: Of the order of samples and of the held-back share.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class EpochLoss:
    """Mean losses of one epoch; `validation` is on the samples held back."""

    epoch: int
    training: float
    validation: float


def fine_tune(
    model: ir.Model,
    samples: Sequence[Array],
    targets: Array | Sequence[Array],
    labels: Labels,
    schedule: Schedule,
    *,
    on_epoch: Callable[[EpochLoss], None] = lambda _: None,
) -> list[EpochLoss]:
    """Trains `model` in place and keeps the weights of its best epoch.

    Weights that are marked keep their zeros or their clusters; see `trimtab.engine.hold`.

    Args:
        model: The graph. A Softmax or Sigmoid at its end is left out of the loss, which works on
            what goes into it.
        samples: One array per input, samples along axis 0.
        targets: The teacher's answers for each output: what `losses.heads` finds in its graph,
            per sample; one array if there is one output.
        labels: Class numbers or values to predict, or None.
        schedule: How long and how fast.
        on_epoch: Called after every epoch.

    Returns:
        The losses of every epoch, the state before the first one included as epoch 0.

    Raises:
        UnsupportedOperatorError: The engine lacks operators of the graph.
        ModelError: The graph has a fixed batch.
        DataError: There are too few samples, or targets or labels do not fit the outputs.
    """
    _check(model, len(samples[0]))
    answers = [targets] if isinstance(targets, np.ndarray) else list(targets)
    objective, goals = build_loss(
        model, answers, labels, temperature=schedule.temperature, label_share=_LABEL_SHARE
    )
    import_tensorflow()
    seed_everything(schedule.seed)
    module = GraphModule(model, trainable=True)
    order = np.random.default_rng(schedule.seed).permutation(len(samples[0]))
    held_back = max(1, round(len(order) * _VALIDATION_SHARE))
    columns = [*samples, *goals]
    validation = [column[order[:held_back]] for column in columns]
    training = [column[order[held_back:]] for column in columns]
    trainer = _Trainer(module, objective, schedule, inputs=len(samples), samples=len(training[0]))

    history = [EpochLoss(0, float("nan"), trainer.evaluate(validation))]
    best = [np.asarray(variable.numpy()) for variable in module.variables]
    for epoch in range(1, schedule.epochs + 1):
        loss = trainer.train_epoch(training, epoch)
        history.append(EpochLoss(epoch, loss, trainer.evaluate(validation)))
        on_epoch(history[-1])
        if history[-1].validation <= min(entry.validation for entry in history[:-1]):
            best = [np.asarray(variable.numpy()) for variable in module.variables]
    for variable, array in zip(module.variables, best, strict=True):
        variable.assign(array)
    module.store()
    return history


def _check(model: ir.Model, samples: int) -> None:
    for value in model.graph.inputs:
        if value.shape and isinstance(value.shape[0], int):
            raise ModelError(
                f"input {value.name!r} has a fixed batch of {value.shape[0]}; to fine-tune the "
                "model, export it with a free first dimension"
            )
    if samples < 2:
        raise DataError(f"fine-tuning needs samples to train on and one to check; got {samples}")


class _Trainer:
    """The compiled steps; built once, so that TensorFlow traces each of them once."""

    def __init__(
        self,
        module: GraphModule,
        objective: Loss,
        schedule: Schedule,
        *,
        inputs: int,
        samples: int,
    ) -> None:
        import keras
        import tensorflow as tf

        self._module, self._objective, self._inputs = module, objective, inputs
        self._schedule = schedule
        self._batch = min(schedule.batch_size, samples)
        steps = schedule.epochs * (samples // self._batch)
        self._optimizer = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(schedule.learning_rate, max(steps, 1))
        )
        self._optimizer.build(module.variables)
        self._holding = Holding(module)
        self._step = tf.function(self._train_step, reduce_retracing=True, autograph=False)
        self._check = tf.function(self._loss_of, reduce_retracing=True, autograph=False)

    def train_epoch(self, columns: Sequence[Array], epoch: int) -> float:
        """Runs one epoch in a new order; the samples that fill no batch wait for the next."""
        order = np.random.default_rng((self._schedule.seed, epoch)).permutation(len(columns[0]))
        losses = []
        for start in range(0, len(order) - self._batch + 1, self._batch):
            index = order[start : start + self._batch]
            losses.append(self._step(*_tensors(columns, index)))
        return float(np.mean([loss.numpy() for loss in losses]))

    def evaluate(self, columns: Sequence[Array]) -> float:
        """Returns the mean loss."""
        total = 0.0
        for start in range(0, len(columns[0]), self._batch):
            index = np.arange(start, min(start + self._batch, len(columns[0])))
            total += float(self._check(*_tensors(columns, index))) * len(index)
        return total / len(columns[0])

    def _train_step(self, *columns: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self._loss_of(*columns)
        variables = self._module.variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        self._optimizer.apply(
            [g for g, _ in pairs], [v for _, v in pairs] if len(pairs) < len(variables) else None
        )
        self._holding.project()
        return loss

    def _loss_of(self, *columns: Any) -> Any:
        answers = self._module(columns[: self._inputs], self._objective.values)
        return self._objective(answers, columns[self._inputs :])


def _tensors(columns: Sequence[Array], index: Array) -> list[Any]:
    import tensorflow as tf

    return [tf.constant(column[index]) for column in columns]
