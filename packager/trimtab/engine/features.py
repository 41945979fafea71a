"""Feature matching: inner values of the student are drawn towards inner values of the teacher.

The mean squared difference, relative to the variance of the teacher's, is added to the loss
(Romero et al. 2015, "FitNets", equation 3). Where the widths differ, a linear map of the student's
channels, trained along and then forgotten, stands between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.losses import Loss
from trimtab.errors import ModelError
from trimtab.graph.access import shape_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Match:
    """One pair of values.

    Attributes:
        value: The student's.
        teacher: The teacher's answer for some samples, which gives its shape and its variance.
        name: Of the teacher's value, for messages.
    """

    value: ir.Value
    teacher: Array
    name: str


class FeatureLoss:
    """A loss, and the distance of features beside it.

    Args:
        loss: Of the outputs.
        matches: The features.
        share: Weight of the features' mean distance; the loss weighs 1.

    Raises:
        ModelError: Two values differ in more than their width.
    """

    def __init__(self, loss: Loss, matches: Sequence[Match], *, share: float) -> None:
        self._loss, self._share = loss, share
        self._pairs = [_Pair(match) for match in matches]
        self.values = [*(match.value for match in matches), *loss.values]
        self.variables = [pair.adapter for pair in self._pairs if pair.adapter is not None]

    def __call__(self, answers: Sequence[Any], goals: Sequence[Any]) -> Any:
        """Returns the loss; the features' answers and goals come before the outputs'."""
        count = len(self._pairs)
        distance = sum(
            pair.distance(answer, goal)
            for pair, answer, goal in zip(self._pairs, answers[:count], goals[:count], strict=True)
        )
        return self._loss(answers[count:], goals[count:]) + self._share * distance / count


def differing_axis(match: Match) -> int | None:
    """Returns the axis in which two values differ in width, None where they do not.

    Raises:
        ModelError: They differ in more, or the student's width is not known.
    """
    wanted = match.teacher.shape[1:]
    found = (shape_of(match.value) or ())[1:]
    differing = [axis for axis, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b]
    if len(wanted) != len(found) or len(differing) > 1:
        raise ModelError(
            f"feature {match.name!r}: the teacher's value is {list(wanted)}, the student's "
            f"{match.value.name!r} is {list(found)}; they may differ in one dimension only"
        )
    if not differing:
        return None
    if found[differing[0]] is None:
        raise ModelError(f"feature {match.name!r}: the student's width is not known")
    return differing[0] + 1


class _Pair:
    def __init__(self, match: Match) -> None:
        import keras

        self._scale = max(float(np.var(match.teacher)), 1e-12)
        self._axis = differing_axis(match)
        self.adapter: Any = None
        if self._axis is not None:
            rows = (shape_of(match.value) or ())[self._axis]
            assert rows is not None
            columns = match.teacher.shape[self._axis]
            random = np.random.default_rng(0)
            start = random.normal(0, 1 / np.sqrt(rows), (rows, columns)).astype(np.float32)
            self.adapter = keras.Variable(start)

    def distance(self, answer: Any, goal: Any) -> Any:
        import tensorflow as tf

        if self._axis is not None:
            # The products run over the last axis; a transpose before and after would do the same.
            order = [axis for axis in range(len(answer.shape)) if axis != self._axis]
            answer = tf.tensordot(answer, self.adapter.value, [[self._axis], [0]])
            goal = tf.transpose(goal, [*order, self._axis])
        return tf.reduce_mean(tf.square(goal - answer)) / self._scale
