"""How the loss answers to each weight: gradients, gathered over samples.

With labels it is their loss. Without any, the model's own answers are taken at their word: classes
are drawn with the probabilities that it gives them (so squared gradients estimate the Fisher
information: Kunstner et al. 2019, arXiv:1905.12558, section 2), and for other outputs the loss is
their squared length (Aljundi et al. 2018, "Memory Aware Synapses", equation 3). The distance from
the teacher would not do: its gradient is zero for as long as nothing has been pruned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.heads import Head, Labels, fit_labels, heads, per_output
from trimtab.engine.layout import Laid, arrange, natural
from trimtab.engine.losses import Loss, build_loss
from trimtab.engine.module import GraphModule
from trimtab.tensorflow_setup import import_tensorflow

Array = NDArray[Any]

_SEED = 0
"""Of what is drawn: the same samples give the same gradients."""

_CERTAIN = np.float32(1e3)
"""Answers times this leave no other class a chance, after softening too."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of the loss by initializer, in ONNX's order of axes, float32.

    Attributes:
        mean: Mean over all samples.
        squared: Mean over batches of the squared gradient of a batch, times the batch's size: an
            estimate of the mean squared gradient of a sample, the diagonal of the Fisher
            information, where gradients of samples are independent with mean zero, as at a minimum.
            It costs what training costs; one sample at a time would cost many times that.
    """

    mean: dict[str, Array]
    squared: dict[str, Array]


def weight_gradients(
    model: ir.Model,
    samples: Sequence[Array],
    targets: Array | Sequence[Array],
    labels: Labels,
    *,
    batch: int = 64,
) -> Gradients:
    """Gathers the gradients of the loss by every trainable weight.

    Args:
        model: The graph; it is not changed.
        samples: One array per input, samples along axis 0.
        targets: The teacher's answers for each output, as `trimtab.engine.train.fine_tune` takes
            them; one array if there is one output. Read where there are no labels.
        labels: Class numbers or values to predict, or None.
        batch: Samples at a time.

    Returns:
        One array for each trainable initializer; zeros for those that the loss does not reach.

    Raises:
        UnsupportedOperatorError: The engine lacks operators of the graph.
        DataError: Targets or labels do not fit the model's outputs.
    """
    goals = _goals(model, _listed(targets), labels)
    count = 0
    sums: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    for size, gradients in gradient_batches(model, samples, targets, goals, batch=batch):
        count += size
        for name, gradient in gradients.items():
            total = gradient * size
            sums[name] = sums.get(name, 0) + total
            squares[name] = squares.get(name, 0) + np.square(total)
    return Gradients(
        {name: total / count for name, total in sums.items()},
        {name: total / count for name, total in squares.items()},
    )


def gradient_batches(
    model: ir.Model,
    samples: Sequence[Array],
    targets: Array | Sequence[Array],
    labels: Labels,
    *,
    batch: int,
    temperature: float = 1.0,
    label_share: float = 1.0,
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yields the size of each batch and its mean gradients, in ONNX's order of axes, float32.

    Arguments and errors are those of `weight_gradients`; but the loss is that of training, with
    its mix of labels and of targets, both softened.
    """
    import_tensorflow()
    loss, columns = build_loss(
        model, _listed(targets), labels, temperature=temperature, label_share=label_share
    )
    columns = [*samples, *columns]
    module = GraphModule(model, trainable=True)
    step = _gradient_step(module, loss, len(samples))
    for start in range(0, len(columns[0]), batch):
        part = [column[start : start + batch] for column in columns]
        yield len(part[0]), _in_onnx_order(module, step(part))


def probing_targets(model: ir.Model, answers: Sequence[Array], labels: Labels) -> list[Array]:
    """Returns targets that the answers are not at: the distance from them has gradients.

    The likeliest class becomes certain. Values that are no classes get noise: the gradient is then
    a random projection of their own gradients, whose mean square is that of all of them
    (Hutchinson 1990, "A stochastic estimator of the trace").

    Args:
        model: The graph.
        answers: For each output, as `weight_gradients` takes them.
        labels: They tell whether outputs are classes where the graph does not; or None.
    """
    generator, found = np.random.default_rng(_SEED), heads(model)
    targets = []
    for head, answer, label in zip(found, answers, per_output(labels, len(found)), strict=True):
        fitted = head if label is None else fit_labels(head, label, answer)[0]
        noise = answer.std() * generator.standard_normal(answer.shape, np.float32)
        targets.append(answer + noise if fitted.kind == "values" else answer * _CERTAIN)
    return targets


def _listed(targets: Array | Sequence[Array]) -> list[Array]:
    return [targets] if isinstance(targets, np.ndarray) else list(targets)


def _goals(model: ir.Model, answers: Sequence[Array], labels: Labels) -> list[Array]:
    """Returns labels for every output, made up where there are none."""
    given = [labels] if labels is None or isinstance(labels, np.ndarray) else list(labels)
    given += [None] * (len(answers) - len(given))
    generator = np.random.default_rng(_SEED)
    return [
        _drawn(head, answer, generator) if label is None else label
        for head, answer, label in zip(heads(model), answers, given, strict=False)
    ]


def _drawn(head: Head, answer: Array, generator: np.random.Generator) -> Array:
    if head.kind == "softmax":  # adding Gumbel noise to logits and taking the largest draws a class
        drawn: Array = (answer + generator.gumbel(size=answer.shape)).argmax(axis=head.axis)
        return drawn
    if head.kind == "sigmoid":
        return (answer + generator.logistic(size=answer.shape) > 0).astype(np.float32)
    return np.zeros_like(answer)


def _gradient_step(module: GraphModule, loss: Loss, inputs: int) -> Any:
    import tensorflow as tf

    variables = [variable.value for variable in module.variables]

    def step(*columns: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(module(columns[:inputs], loss.values), columns[inputs:])
        found = tape.gradient(value, variables, unconnected_gradients="zero")
        return [tf.convert_to_tensor(gradient) for gradient in found]  # of a table, rows alone

    compiled = tf.function(step, reduce_retracing=True, autograph=False)
    return lambda part: [g.numpy() for g in compiled(*[tf.constant(array) for array in part])]


def _in_onnx_order(module: GraphModule, arrays: Sequence[Array]) -> dict[str, Array]:
    ordered = {}
    for (name, (_, axes)), array in zip(module.stored.items(), arrays, strict=True):
        rank = sum(axis is not None for axis in axes)
        ordered[name] = arrange(Laid(array, axes), natural(rank))
    return ordered
