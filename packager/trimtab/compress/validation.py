"""What a change of a model costs, by cross-validation in the figure of its own task.

Of a classifier that is accuracy, of a regression R2, of embeddings the cosine, of sequences the
share of right tokens, and so on: the first figure of the task (`trimtab.evaluate.tasks`). Without
labels, it is the agreement with the unchanged model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trimtab.evaluate.data import Dataset
from trimtab.evaluate.tasks import Batch, Evidence, Measure, Task, detect_task, make_task
from trimtab.evaluate.tasks.base import Array
from trimtab.evaluate.tasks.regression import Regression
from trimtab.graph.access import shape_of
from trimtab.graph.run import run_graph

_OF_CLASSES = frozenset({"classification", "tokens", "ctc"})


class Validation:
    """Measures changed models on samples of the training data.

    Args:
        model: The unchanged one.
        dataset: Gives the samples, their labels and the task.
        samples: How many are drawn.
        folds: Into how many parts they are split.
        seed: Of the draw.

    Attributes:
        task: By whose figure models are measured.
        inputs: The samples, one array per input.

    Raises:
        DataError: Labels leave open what the task is.
    """

    def __init__(
        self, model: ir.Model, dataset: Dataset, *, samples: int, folds: int, seed: int
    ) -> None:
        split = dataset.train
        chosen = np.random.default_rng(seed).permutation(len(split))[:samples]
        self.inputs = split.take(chosen)
        self._labels = None if split.labels is None else split.labels[chosen]
        self._reference = run_graph(model, self.inputs)
        self.task = _task(model, dataset, self._reference[0])
        self._folds = np.zeros((min(folds, len(chosen)), len(chosen)))
        self._folds[np.arange(len(chosen)) % len(self._folds), np.arange(len(chosen))] = 1

    def drop(self, changed: ir.Model) -> float:
        """Returns how much lower the task's figure is: its mean over the folds, plus one error.

        That is one standard error of the mean, as Breiman et al. 1984 ("Classification and
        Regression Trees", section 3.4.3) add it. The tasks look at a model's first output; of
        others it is one less the R2 to the unchanged model's, and the worst output counts.
        """
        return self.drop_of(self.run(changed))

    def run(self, changed: ir.Model) -> list[Array]:
        """Returns a model's outputs on the samples, one array per output."""
        return run_graph(changed, self.inputs)

    def drop_of(self, outputs: Sequence[Array]) -> float:
        """Returns the drop of a model that gives these outputs on `inputs`."""
        return max(self._first(outputs), *self._others(outputs), -np.inf)

    def distortion_of(self, outputs: Sequence[Array]) -> float:
        """Returns the error of outputs, root mean square, relative to their spread; the worst.

        Where classes are told apart, scores count by their distance from the sample's mean score:
        what all classes have in common decides nothing.
        """
        pairs = [*zip(outputs, self._reference, strict=True)]
        if self.task.name in _OF_CLASSES and self._reference[0].ndim > 1:
            pairs[0] = (_centred(pairs[0][0]), _centred(pairs[0][1]))
        return max(_relative_error(after, before) for after, before in pairs)

    def _first(self, outputs: Sequence[Array]) -> float:
        before, after = (self._observe(self.task, each) for each in (self._reference, outputs))
        measures = self.task.measures(before)
        if not measures:
            return _over_folds(1 - self._agreement(self.task, after, before))
        lost = self._figures(measures[0], before) - self._figures(measures[0], after)
        return _over_folds(lost if measures[0].larger_is_better else -lost)

    def _others(self, outputs: Sequence[Array]) -> list[float]:
        values = Regression(None)
        return [
            _over_folds(
                1 - self._agreement(values, *(self._observe(values, [o]) for o in (after, before)))
            )
            for after, before in zip(outputs[1:], self._reference[1:], strict=True)
        ]

    def _observe(self, task: Task, outputs: Sequence[Array]) -> Evidence:
        labels = None if isinstance(task, Regression) and task is not self.task else self._labels
        return task.observe(Batch(inputs=self.inputs, outputs=outputs, labels=labels))

    def _agreement(self, task: Task, after: Evidence, before: Evidence) -> Array:
        return self._figures(task.agreement, task.agree(after, before))

    def _figures(self, measure: Measure, evidence: Evidence) -> Array:
        return measure.statistic(evidence, self._folds)


def _task(model: ir.Model, dataset: Dataset, output: Array) -> Task:
    labels = dataset.train.labels
    name = dataset.task
    if name is None:
        shapes = [shape_of(value) or () for value in model.graph.inputs]
        name = detect_task(labels, output.shape, shapes)
    return make_task(name, labels, output)


def _centred(scores: Array) -> Array:
    return np.asarray(scores - scores.mean(axis=-1, keepdims=True))


def _relative_error(after: Array, before: Array) -> float:
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return float(np.sqrt(np.mean(np.square(difference)))) / (float(np.std(before)) or 1.0)


def _over_folds(losses: Array) -> float:
    known = losses[np.isfinite(losses)]  # a figure may be undefined on a fold of few samples
    if len(known) == 0:
        return np.inf
    error = np.std(known, ddof=1) / np.sqrt(len(known)) if len(known) > 1 else 0.0
    return float(np.mean(known) + error)
