"""Whether images have the range that a model was trained on: 0..255, 0..1 or -1..1.

No file says it, and a model takes any numbers, so the model itself is asked: it runs on some
samples as they are and on the same samples brought to the other ranges. With labels a wrong range
is certain where the model guesses on samples as they are and is right on scaled ones. Without
labels it is likely where nearly all samples get the same class as they are, and many when scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.evaluate.data import Dataset, Split

Array = NDArray[Any]
Run = Callable[[Sequence[Array]], Sequence[Array]]

SAMPLES = 64
"""Enough to tell guessing from knowing: a share of 64 is known to 12 points."""

_RIGHT, _BETTER = 0.6, 0.3
"""What a scaled version must have right, and by how much more than the given one."""
_ONE_CLASS, _VARIED = 0.95, 0.6
"""Share of the most frequent answer: of a model that sees nothing, and of one that sees."""


@dataclass(frozen=True)
class _Scaling:
    """A way from one range to another."""

    advice: str
    apply: Callable[[Array], Array]


_SCALINGS: Mapping[str, tuple[_Scaling, ...]] = {
    "0..255": (
        _Scaling("divided by 255 (0..1)", lambda x: x / 255),
        _Scaling("divided by 127.5, less 1 (-1..1)", lambda x: x / 127.5 - 1),
    ),
    "0..1": (
        _Scaling("times 255 (0..255)", lambda x: x * 255),
        _Scaling("times 2, less 1 (-1..1)", lambda x: x * 2 - 1),
    ),
    "-1..1": (
        _Scaling("plus 1, times 127.5 (0..255)", lambda x: (x + 1) * 127.5),
        _Scaling("plus 1, divided by 2 (0..1)", lambda x: (x + 1) / 2),
    ),
}


def check_input_range(dataset: Dataset, run: Run) -> str | None:
    """Looks for images whose range is not the one that the model wants.

    Args:
        dataset: The data; only classification with one input of images is looked at, shape
            (samples, height, width, channels) or (samples, channels, height, width), float.
        run: The float model: its inputs to its outputs, samples along the first axis.

    Returns:
        A line that says that the range is likely to be wrong, or None.

    Raises:
        DataError: The range is wrong for certain. The message says what to do.
    """
    split = dataset.test
    if dataset.task != "classification" or len(split.columns) != 1:
        return None
    if len(split.columns[0].shape) != 4:
        return None
    images = np.asarray(split.columns[0][:SAMPLES])
    given = _range_of(images)
    if given is None or images.dtype != np.float32:
        return None
    answers = {scaling.advice: _answers(run, scaling.apply(images)) for scaling in _SCALINGS[given]}
    own = _answers(run, images)
    if split.labels is not None and split.labels.ndim == 1:
        return _by_labels(dataset.source, given, own, answers, split)
    return _by_variety(dataset.source, given, own, answers)


def _range_of(images: Array) -> str | None:
    """Names the range that values are in; None if it is none that images have."""
    low, high = float(images.min()), float(images.max())
    if low >= 0 and 1 < high <= 255:
        return "0..255" if high > 16 else None
    if high <= 1 and low >= -1:
        return "-1..1" if low < 0 else "0..1"
    return None


def _answers(run: Run, images: Array) -> Array:
    """Returns the number of the class that each image gets."""
    output = np.asarray(run([images.astype(np.float32)])[0])
    scores = output.reshape(len(output), -1)
    return np.asarray(scores.argmax(axis=1) if scores.shape[1] > 1 else scores[:, 0] > 0.5)


def _by_labels(
    source: str, given: str, own: Array, answers: Mapping[str, Array], split: Split
) -> str | None:
    assert split.labels is not None
    labels = np.asarray(split.labels[: len(own)])
    right = float((own == labels).mean())
    best = max(answers, key=lambda advice: float((answers[advice] == labels).mean()))
    better = float((answers[best] == labels).mean())
    guess = float(np.unique(labels, return_counts=True)[1].max()) / len(labels)
    evidence = (
        f"{source}: images are in {given}, and the model is right on {right:.0%} of {len(labels)} "
        f"of them as they are and on {better:.0%} with values {best}"
    )
    if better < right + _BETTER:
        return None
    if better >= _RIGHT and right <= guess + 1 / np.sqrt(len(labels)):
        raise DataError(f"{evidence}; scale x_train and x_test so")
    return f"{evidence}; look at how the model's training data was scaled"


def _by_variety(source: str, given: str, own: Array, answers: Mapping[str, Array]) -> str | None:
    def share(classes: Array) -> float:
        return float(np.unique(classes, return_counts=True)[1].max()) / len(classes)

    best = min(answers, key=lambda advice: share(answers[advice]))
    if share(own) < _ONE_CLASS or share(answers[best]) > _VARIED:
        return None
    return (
        f"{source}: images are in {given}, and the model gives {share(own):.0%} of {len(own)} of "
        f"them the same class; with values {best} it tells them apart: look at how its training "
        "data was scaled"
    )
