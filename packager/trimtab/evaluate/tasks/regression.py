"""Regression: numbers, from outputs of the labels' own shape."""

from __future__ import annotations

import numpy as np

from trimtab.evaluate.tasks.base import Array, Batch, Evidence, Measure, flat, one_minus, ratio


def _rmse(evidence: Evidence, counts: Array) -> Array:
    return np.sqrt(ratio("squared")(evidence, counts))


class Regression:
    """R2, mean absolute error and root mean square error, the latter two in the labels' unit.

    R2 stands for the whole, because it has no unit and 1 is perfect. With several outputs,
    errors and variances are added up before they are divided.

    Args:
        labels: All labels of the test samples: their mean is what R2 compares with.
    """

    name = "regression"
    part_measure: Measure | None = Measure(
        name="mae", statistic=ratio("absolute"), larger_is_better=False
    )
    part_column = "absolute"
    has_classes = False
    agreement = Measure(name="r2_to_original", statistic=one_minus(ratio("squared", "deviation")))

    def __init__(self, labels: Array | None) -> None:
        self._mean = None if labels is None else flat(labels).mean(axis=0)

    def observe(self, batch: Batch) -> Evidence:
        """Keeps the answer and its errors."""
        answers = flat(batch.outputs[0])
        evidence = {"answer": answers}
        if batch.labels is not None:
            truth = flat(batch.labels)
            evidence["absolute"] = np.abs(answers - truth).mean(axis=1)
            evidence["squared"] = ((answers - truth) ** 2).mean(axis=1)
            evidence["deviation"] = ((truth - self._mean) ** 2).mean(axis=1)
        return evidence

    def measures(self, evidence: Evidence) -> tuple[Measure, ...]:
        """R2, MAE and RMSE."""
        if "squared" not in evidence:
            return ()
        return (
            Measure(name="r2", statistic=one_minus(ratio("squared", "deviation"))),
            Measure(name="mae", statistic=ratio("absolute"), larger_is_better=False),
            Measure(name="rmse", statistic=_rmse, larger_is_better=False),
        )

    def agree(self, evidence: Evidence, reference: Evidence) -> Evidence:
        """The R2 that the original's answers give as labels."""
        answers, truth = evidence["answer"], reference["answer"]
        return {
            "squared": ((answers - truth) ** 2).mean(axis=1),
            "deviation": ((truth - truth.mean(axis=0)) ** 2).mean(axis=1),
        }
