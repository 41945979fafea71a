"""How well outputs agree with labels: the same figure on the host and on the device.

Only what is a plain count or mean over samples is here. The host's evaluation has more figures,
with their intervals; a few dozen golden samples would not carry them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab_agent.contract.manifest import TaskMetric
from trimtab_agent.errors import FormatError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

PADDING = -1
"""A label that does not count."""


def score(metric: TaskMetric, output: Array, labels: Array, *, threshold: float | None) -> float:
    """Returns a task's figure.

    Args:
        metric: `top1`, `token_accuracy` or `rmse`; `contract/manifest.py` defines them.
        output: The model's first output, samples along the first axis.
        labels: What is right, likewise.
        threshold: From which on a single score says class 1; for `top1` alone.

    Raises:
        FormatError: The labels do not fit the output.
    """
    if metric == "rmse":
        return _rmse(output, labels)
    if metric == "top1":
        scores = output.reshape(len(output), -1)
        if scores.shape[1] == 1:
            answers = (scores[:, 0] > (0.0 if threshold is None else threshold)).astype(np.int64)
        else:
            answers = scores.argmax(axis=1)
    else:
        answers = output.argmax(axis=-1)
    if answers.shape != labels.shape or not np.issubdtype(labels.dtype, np.integer):
        raise _unfit(metric, output, labels)
    counted = labels != PADDING
    if not counted.any():
        raise FormatError("the golden samples' labels are padding and nothing else")
    return float((answers == labels)[counted].mean())


def _rmse(output: Array, labels: Array) -> float:
    """Returns the root mean square error over all numbers, in the labels' unit."""
    if output.size != labels.size or labels.dtype.kind not in "iuf":
        raise _unfit("rmse", output, labels)
    # In float64, so that integers cannot wrap around.
    errors = output.astype(np.float64).reshape(-1) - labels.astype(np.float64).reshape(-1)
    return float(np.sqrt(np.mean(errors**2)))


def _unfit(metric: TaskMetric, output: Array, labels: Array) -> FormatError:
    return FormatError(
        f"the golden samples' labels, {labels.dtype} {labels.shape}, do not fit the output "
        f"{output.shape} for the metric {metric}"
    )
