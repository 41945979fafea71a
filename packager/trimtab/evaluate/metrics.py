"""Figures from outputs and labels. Pure: arrays in, numbers out.

Outputs are class scores of shape `[samples, classes]`, any real dtype; labels are class numbers
of shape `[samples]`. There is always at least one sample: `check_fits` has seen to that. What
a figure is worth, with intervals and tests, is for `evaluate` to say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def top1(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns the share of samples whose highest score is that of their label."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def agreement(scores: NDArray[Any], reference: NDArray[Any]) -> float:
    """Returns the share of samples for which two models have the same highest score.

    One less this bounds the loss of accuracy, labels or not: where both answer alike, both are
    right or both are wrong.
    """
    return float(np.mean(scores.argmax(axis=1) == reference.argmax(axis=1)))


def max_abs_error(outputs: NDArray[Any], reference: NDArray[Any]) -> float:
    """Returns the largest difference in any element, in the outputs' own unit; any shape."""
    difference = outputs.astype(np.float64) - reference.astype(np.float64)
    return float(np.abs(difference).max(initial=0.0))
