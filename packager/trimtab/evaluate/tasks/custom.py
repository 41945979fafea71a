"""A user's own figure: `module:function(outputs, labels) -> float | dict`, larger is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from trimtab.errors import DataError
from trimtab.evaluate.plugin import call_plugin, load_plugin
from trimtab.evaluate.tasks.base import Array, Batch, Evidence, Measure
from trimtab.evaluate.tasks.classification import Classification
from trimtab.evaluate.tasks.regression import Regression


class Custom:
    """Calls a user's function.

    It gets the first output of all samples, or a list of outputs if there are several, and the
    labels, None without. Of a mapping, the first figure stands for the whole. It is called for
    every resample too.

    Args:
        name: `module:function`.
        classes: Size of the first output's last axis if the output looks like class scores, else
            None: by that, agreement with the original is of answers or of numbers.

    Raises:
        DataError: There is no such function.
    """

    part_measure: Measure | None = None
    part_column = ""
    has_classes = False

    def __init__(self, name: str, classes: int | None) -> None:
        self.name = name
        self._function = load_plugin(name)
        self._agreement: Classification | Regression = (
            Regression(None) if classes is None else Classification(classes)
        )

    def observe(self, batch: Batch) -> Evidence:
        """Keeps everything, since nobody knows what the function looks at."""
        evidence = dict(self._agreement.observe(replace(batch, labels=None)))
        evidence |= {f"output {index}": array for index, array in enumerate(batch.outputs)}
        return evidence if batch.labels is None else {**evidence, "label": batch.labels}

    def measures(self, evidence: Evidence) -> tuple[Measure, ...]:
        """What the function returns.

        Raises:
            DataError: It fails, or returns no finite figures.
        """
        return tuple(
            Measure(name=name, statistic=self._statistic(name)) for name in self._call(evidence)
        )

    @property
    def agreement(self) -> Measure:
        """That of class scores, or of numbers."""
        return self._agreement.agreement

    def agree(self, evidence: Evidence, reference: Evidence) -> Evidence:
        """That of class scores, or of numbers."""
        return self._agreement.agree(evidence, reference)

    def _statistic(self, name: str) -> Callable[[Evidence, Array], Array]:
        def statistic(evidence: Evidence, counts: Array) -> Array:
            return np.array([self._figure(name, _resampled(evidence, row)) for row in counts])

        return statistic

    def _figure(self, name: str, evidence: Evidence) -> float:
        """Returns a figure of a resample; NaN where the function has none to give."""
        try:
            return self._call(evidence).get(name, math.nan)
        except DataError:
            return math.nan

    def _call(self, evidence: Evidence) -> Mapping[str, float]:
        outputs = [array for name, array in evidence.items() if name.startswith("output ")]
        given: Any = outputs if len(outputs) > 1 else outputs[0]
        result = call_plugin(self.name, self._function, given, evidence.get("label"))
        figures = result if isinstance(result, Mapping) else {"value": result}
        try:
            figures = {str(name): float(value) for name, value in figures.items()}
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.name} must return a number or a mapping of them") from error
        if not figures or not all(map(math.isfinite, figures.values())):
            raise DataError(f"{self.name} must return finite numbers; it returned {result!r}")
        return figures


def _resampled(evidence: Evidence, counts: Array) -> Evidence:
    index = np.repeat(np.arange(len(counts)), counts.astype(np.int64))
    return {name: array[index] for name, array in evidence.items()}
