"""The compiled steps of training: built once, so that TensorFlow traces each of them once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.batch_norm import MIN_BATCH, BatchNorms
from trimtab.engine.feed import Feed
from trimtab.engine.hold import Holding
from trimtab.engine.module import GraphModule
from trimtab.engine.schedule import Schedule, make_optimizer
from trimtab.progress import report

Array = NDArray[Any]

_GATHERED_SAMPLES = 1024
"""Enough for the mean and variance of a channel, which every sample has at many places."""

_NORM_SAMPLES = 500
"""With fewer, statistics of batches are a noise that the few steps do not average out."""


class Objective(Protocol):
    """What is lowered; `trimtab.engine.losses.Loss` is one.

    Attributes:
        values: What to compute of the graph.
        variables: Weights of its own, trained with the graph's and then forgotten.
    """

    values: list[ir.Value]
    variables: list[Any]

    def __call__(self, answers: Sequence[Any], goals: Sequence[Any]) -> Any:
        """Returns the loss of a batch, from the computed values and the columns behind inputs."""
        ...


class Trainer:
    """Trains a module, epoch by epoch.

    Args:
        module: Trainable.
        objective: What is lowered.
        feed: Gives batches.
        training: Numbers of the samples to train on.
        schedule: How.
    """

    def __init__(
        self,
        module: GraphModule,
        objective: Objective,
        feed: Feed,
        training: Array,
        schedule: Schedule,
    ) -> None:
        import tensorflow as tf

        self._module, self._objective, self._feed = module, objective, feed
        self._training, self._schedule = training, schedule
        self._batch = min(schedule.batch_size, len(training))
        self._norms = self._reinflated()
        self._holding = Holding(module)
        norms = [] if self._norms is None else self._norms.trainable
        self._trainable = [*module.variables, *norms, *objective.variables]
        steps = schedule.epochs * (len(training) // self._batch)
        self._optimizer = make_optimizer(
            schedule, steps, self._trainable, has_norms=self._norms is not None
        )
        self._step = tf.function(self._train_step, reduce_retracing=True, autograph=False)
        self._check = tf.function(self._loss, reduce_retracing=True, autograph=False)

    def state(self) -> list[Array]:
        """Returns copies of all that training changes, but for the optimizer's own variables."""
        return [np.array(variable.numpy()) for variable in self._state_variables()]

    def finish(self, state: Sequence[Array]) -> None:
        """Goes back to a state and writes it into the module's graph."""
        for variable, array in zip(self._state_variables(), state, strict=True):
            variable.assign(array)
        self._module.store()
        if self._norms is not None:
            self._norms.fold()

    def train_epoch(self, epoch: int) -> float:
        """Runs one epoch in a new order; the samples that fill no batch wait for the next."""
        import tensorflow as tf

        order = np.random.default_rng((self._schedule.seed, epoch)).permutation(self._training)
        losses = []
        steps = len(order) // self._batch
        before, total = (epoch - 1) * steps, self._schedule.epochs * steps
        for number, index in enumerate(_batches(order, self._batch, whole=True), start=1):
            report("training", before + number, total)
            columns = self._feed.batch(index, training=True)
            losses.append(self._step(*[tf.constant(column) for column in columns]))
        return float(np.mean([loss.numpy() for loss in losses]))

    def evaluate(self, samples: Array) -> float:
        """Returns the mean loss on the samples with these numbers."""
        import tensorflow as tf

        total = 0.0
        for index in _batches(samples, self._batch):
            columns = [tf.constant(column) for column in self._feed.batch(index)]
            total += float(self._check(*columns)) * len(index)
        return total / len(samples)

    def _reinflated(self) -> BatchNorms | None:
        """Puts batch norms behind convolutions, if that is wanted and there is data for it."""
        schedule = self._schedule
        enough = len(self._training) >= _NORM_SAMPLES and self._batch >= MIN_BATCH
        if not schedule.reinflate or not enough:
            return None
        norms = BatchNorms(self._module, self._objective.values)
        if not len(norms):
            return None
        chosen = np.random.default_rng(schedule.seed).permutation(self._training)
        width = self._feed.width
        norms.start(
            self._feed.batch(index)[:width]
            for index in _batches(chosen[:_GATHERED_SAMPLES], self._batch, whole=True)
        )
        return norms

    def _state_variables(self) -> list[Any]:
        running = [] if self._norms is None else self._norms.running
        return [*self._trainable, *running]

    def _train_step(self, *columns: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            if self._norms is None:
                loss = self._loss(*columns)
            else:
                with self._norms.mode("batch"):
                    loss = self._loss(*columns)
        found = tape.gradient(loss, [variable.value for variable in self._trainable])
        gradients = self._holding.gradients(found)
        pairs = [(g, v) for g, v in zip(gradients, self._trainable, strict=True) if g is not None]
        reached = [v for _, v in pairs] if len(pairs) < len(self._trainable) else None
        self._optimizer.apply([g for g, _ in pairs], reached)
        self._holding.settle()
        self._module.settle()
        return loss

    def _loss(self, *columns: Any) -> Any:
        width = self._feed.width
        answers = self._module(columns[:width], self._objective.values)
        return self._objective(answers, columns[width:])


def _batches(samples: Array, size: int, *, whole: bool = False) -> Iterator[Array]:
    end = len(samples) - size + 1 if whole else len(samples)
    for start in range(0, end, size):
        yield samples[start : start + size]
