"""What training lowers: distance from labels, from a teacher's answers, or a mix of both.

Each output of a model has a loss of its own, and their sum is lowered. What an output is shows at
the operator that makes it:

| output | from the teacher | from labels |
|---|---|---|
| Softmax, or logits with whole-number labels | divergence of softened answers | cross-entropy |
| Sigmoid | cross-entropy of softened answers | cross-entropy |
| anything else | squared difference | squared difference |

Classes may lie along any axis, and the others be positions, as in a segmentation or a sequence:
then each position has a label, -1 where it is padding. Labels that are shorter than the sequence of
positions are met by connectionist temporal classification (Graves et al. 2006).

Softened answers are those of Hinton et al. 2015, "Distilling the Knowledge in a Neural Network",
section 2; squared differences those of Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?",
section 2.2. They are divided by the variance of what is to be met, so that outputs in different
units weigh alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.heads import Head, Labels, fit_labels, heads, per_output
from trimtab.errors import DataError
from trimtab.evaluate.tasks.sequences import PADDING

Array = NDArray[Any]


@dataclass(frozen=True)
class Term:
    """The loss of one output; see `Loss`.

    Attributes:
        head: The output.
        labelled: Whether it has labels.
        target_scale: Variance of the teacher's answers.
        label_scale: Variance of the labels.
        blank: Class that stands for no token, where labels are sequences of tokens.
    """

    head: Head
    labelled: bool
    target_scale: float
    label_scale: float
    blank: int | None = None


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
            axis = term.head.axis
            return softened_divergence(target, answer, self._temperature, axis=axis)
        if term.head.kind == "sigmoid":
            soft = tf.sigmoid(target / self._temperature)
            entropy = tf.nn.sigmoid_cross_entropy_with_logits(soft, answer / self._temperature)
            return tf.reduce_mean(entropy) * self._temperature**2
        return tf.reduce_mean(tf.square(target - answer)) / term.target_scale


def _from_labels(term: Term, labels: Any, answer: Any) -> Any:
    import tensorflow as tf

    if term.blank is not None:
        return _ctc(labels, answer, term.blank)
    if term.head.kind == "softmax":
        return _cross_entropy(labels, answer, term.head.axis)
    if term.head.kind == "sigmoid":
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, answer))
    return tf.reduce_mean(tf.square(labels - answer)) / term.label_scale


def _cross_entropy(labels: Any, answer: Any, axis: int) -> Any:
    """Mean over the positions that are no padding."""
    import tensorflow as tf

    last = len(answer.shape) - 1
    order = [*(i for i in range(last + 1) if i != axis % (last + 1)), axis % (last + 1)]
    logits = tf.transpose(answer, order) if order[-1] != last else answer
    counted = tf.cast(labels != PADDING, logits.dtype)
    known = tf.maximum(labels, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(known, logits)
    return tf.math.divide_no_nan(tf.reduce_sum(losses * counted), tf.reduce_sum(counted))


def _ctc(labels: Any, answer: Any, blank: int) -> Any:
    """Mean negative log-likelihood of a token (Graves et al. 2006, equation 12)."""
    import tensorflow as tf

    lengths = tf.reduce_sum(tf.cast(labels != PADDING, tf.int32), axis=1)
    positions = tf.fill(tf.shape(answer)[:1], tf.shape(answer)[1])
    losses = tf.nn.ctc_loss(
        tf.maximum(labels, 0),
        answer,
        lengths,
        positions,
        logits_time_major=False,
        blank_index=blank,
    )
    return tf.reduce_sum(losses) / tf.cast(tf.maximum(tf.reduce_sum(lengths), 1), losses.dtype)


def softened_divergence(teacher: Any, student: Any, temperature: float, axis: int = -1) -> Any:
    """Mean Kullback-Leibler divergence of softened class probabilities, times T squared.

    The factor keeps the gradient's size the same over temperatures (Hinton et al. 2015).
    """
    import tensorflow as tf

    target = tf.nn.log_softmax(teacher / temperature, axis=axis)
    answer = tf.nn.log_softmax(student / temperature, axis=axis)
    divergence = tf.reduce_sum(tf.exp(target) * (target - answer), axis=axis)
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
    given = per_output(labels, len(found))
    terms, kept = [], []
    for head, target, label in zip(found, targets, given, strict=True):
        fitted = blank = None
        if label is not None:
            head, fitted, blank = fit_labels(head, label, target)  # noqa: PLW2901
            kept.append(fitted)
        terms.append(
            Term(
                head,
                labelled=fitted is not None,
                target_scale=_variance(target),
                label_scale=1.0 if fitted is None else _variance(fitted),
                blank=blank,
            )
        )
    loss = Loss(terms, temperature=temperature, label_share=label_share)
    return loss, [*targets, *kept]


def _variance(array: Array) -> float:
    variance = float(np.var(array))
    return variance if variance > 0 else 1.0
