"""What training lowers: distance from labels, from a teacher's answers, or a mix of both.

Each output of a model has a loss of its own, and their sum is lowered. What an output is shows at
the operator that makes it:

| output | from the teacher | from labels |
|---|---|---|
| Softmax, or logits with whole-number labels | divergence of softened answers | cross-entropy |
| Sigmoid | cross-entropy of softened answers | cross-entropy |
| anything else | squared difference | squared difference |

Softened answers are those of Hinton et al. 2015, "Distilling the Knowledge in a Neural Network",
section 2; squared differences those of Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?",
section 2.2. They are divided by the variance of what is to be met, so that outputs in different
units weigh alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import DataError

Array = NDArray[Any]
Labels = Array | Sequence[Array | None] | None
"""For the first output, or one array or None for each output."""


@dataclass(frozen=True)
class Head:
    """One output, as the loss sees it.

    Attributes:
        value: What the loss works on: the output, or the logits from which it is made.
        kind: Class probabilities, independent probabilities, or values of any other kind.
    """

    value: ir.Value
    kind: Literal["softmax", "sigmoid", "values"]


@dataclass(frozen=True)
class Term:
    """The loss of one output; see `Loss`."""

    head: Head
    labelled: bool
    target_scale: float
    label_scale: float


def heads(model: ir.Model) -> list[Head]:
    """Returns what the loss works on, for each output in order."""
    return [_head(output) for output in model.graph.outputs]


def _head(output: ir.Value) -> Head:
    producer = output.producer()
    if producer is not None and producer.inputs and (logits := producer.inputs[0]) is not None:
        axis = producer.attributes["axis"].as_int() if "axis" in producer.attributes else -1
        if producer.op_type == "Softmax" and axis in (-1, _rank(output) - 1):
            return Head(logits, "softmax")
        if producer.op_type == "Sigmoid":
            return Head(logits, "sigmoid")
    return Head(output, "values")


def _rank(value: ir.Value) -> int:
    return len(value.shape) if value.shape is not None else 0


class Loss:
    """The mean loss over a batch.

    Args:
        terms: One for each output.
        temperature: Softening of the teacher's answers.
        label_share: Weight of the labels where there are any, 0 to 1; the rest is the teacher's.

    Attributes:
        values: What to compute of the graph, for `__call__`.
        variables: Weights of its own that are trained with the graph's: none.
    """

    def __init__(self, terms: Sequence[Term], *, temperature: float, label_share: float) -> None:
        self._terms, self._temperature, self._label_share = terms, temperature, label_share
        self.values = [term.head.value for term in terms]
        self.variables: list[Any] = []

    def __call__(self, answers: Sequence[Any], goals: Sequence[Any]) -> Any:
        """Returns the loss, a scalar tensor.

        Args:
            answers: The model's, one tensor for each of `values`.
            goals: The columns behind the inputs: a target for each output, then the labels of
                those outputs that have some.
        """
        targets, labels = goals[: len(self._terms)], iter(goals[len(self._terms) :])
        total = 0.0
        for term, answer, target in zip(self._terms, answers, targets, strict=True):
            share = self._label_share if term.labelled else 0.0
            label = next(labels) if term.labelled else None
            if share < 1:
                total += (1 - share) * self._from_teacher(term, target, answer)
            if share > 0:
                total += share * _from_labels(term, label, answer)
        return total

    def _from_teacher(self, term: Term, target: Any, answer: Any) -> Any:
        import tensorflow as tf

        if term.head.kind == "softmax":
            return softened_divergence(target, answer, self._temperature)
        if term.head.kind == "sigmoid":
            soft = tf.sigmoid(target / self._temperature)
            entropy = tf.nn.sigmoid_cross_entropy_with_logits(soft, answer / self._temperature)
            return tf.reduce_mean(entropy) * self._temperature**2
        return tf.reduce_mean(tf.square(target - answer)) / term.target_scale


def _from_labels(term: Term, labels: Any, answer: Any) -> Any:
    import tensorflow as tf

    if term.head.kind == "softmax":
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, answer))
    if term.head.kind == "sigmoid":
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, answer))
    return tf.reduce_mean(tf.square(labels - answer)) / term.label_scale


def softened_divergence(teacher: Any, student: Any, temperature: float) -> Any:
    """Mean Kullback-Leibler divergence of softened class probabilities, times T squared.

    The factor keeps the gradient's size the same over temperatures (Hinton et al. 2015).
    """
    import tensorflow as tf

    target = tf.nn.log_softmax(teacher / temperature)
    answer = tf.nn.log_softmax(student / temperature)
    divergence = tf.reduce_sum(tf.exp(target) * (target - answer), axis=-1)
    return tf.reduce_mean(divergence) * temperature**2


def build_loss(
    model: ir.Model,
    targets: Sequence[Array],
    labels: Labels,
    *,
    temperature: float,
    label_share: float,
) -> tuple[Loss, list[Array]]:
    """Makes the loss of a model, and the columns of goals that it takes.

    Args:
        model: The graph that is trained.
        targets: The teacher's answers for each output: what `heads` finds in its graph.
        labels: Class numbers where an output tells classes apart; else what it should be.
        temperature: Softening of the teacher's answers.
        label_share: Weight of the labels, 0 to 1.

    Raises:
        DataError: Targets or labels do not fit the outputs.
    """
    found = heads(model)
    if len(targets) != len(found):
        raise DataError(f"the model has {len(found)} outputs, the teacher {len(targets)}")
    given = _per_output(labels, len(found))
    terms, kept = [], []
    for head, target, label in zip(found, targets, given, strict=True):
        fitted = None
        if label is not None:
            head, fitted = _fit(head, label, target)  # noqa: PLW2901
            kept.append(fitted)
        terms.append(
            Term(
                head,
                labelled=fitted is not None,
                target_scale=_variance(target),
                label_scale=1.0 if fitted is None else _variance(fitted),
            )
        )
    loss = Loss(terms, temperature=temperature, label_share=label_share)
    return loss, [*targets, *kept]


def _per_output(labels: Labels, outputs: int) -> list[Array | None]:
    if labels is None or isinstance(labels, np.ndarray):
        return [labels, *[None] * (outputs - 1)]
    if len(labels) != outputs:
        raise DataError(f"the model has {outputs} outputs, and there are labels for {len(labels)}")
    return list(labels)


def _fit(head: Head, labels: Array, target: Array) -> tuple[Head, Array]:
    """Brings labels into the shape and type that the loss takes, and finds what the output is.

    Logits are known as such by their labels: a whole number for each row of several values.
    """
    name, classes = head.value.name, target.shape[-1] if target.ndim > 1 else 1
    whole = np.issubdtype(labels.dtype, np.integer)
    if head.kind != "sigmoid" and whole and classes > 1 and labels.shape == target.shape[:-1]:
        outside = labels[(labels < 0) | (labels >= classes)]
        if outside.size:
            raise DataError(
                f"{outside.size} labels of output {name!r} are outside 0 to {classes - 1}, such "
                f"as {outside.flat[0]}"
            )
        return Head(head.value, "softmax"), labels.astype(np.int32)
    if head.kind == "softmax" or labels.size != target.size:
        wanted = list(target.shape[:-1]) if head.kind == "softmax" else list(target.shape)
        raise DataError(
            f"labels of output {name!r} must have the shape {wanted}"
            f"{' and be whole numbers' if head.kind == 'softmax' else ''}; got "
            f"{list(labels.shape)}, {labels.dtype}"
        )
    return head, labels.reshape(target.shape).astype(np.float32)


def _variance(array: Array) -> float:
    variance = float(np.var(array))
    return variance if variance > 0 else 1.0
