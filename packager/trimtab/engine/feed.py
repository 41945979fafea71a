"""Batches for training: inputs, the teacher's answers to them, and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.evaluate.data import Column

Array = NDArray[Any]
Teacher = Callable[[Sequence[Array]], Sequence[Array]]
"""Answers a batch of inputs, one array per answer."""
Augment = Callable[[Sequence[Array]], Sequence[Array]]
"""Changes a batch of inputs, such as by shifting pictures; shapes and dtypes stay."""


class Feed:
    """Gives batches by the numbers of their samples.

    Args:
        inputs: One column per input, samples along axis 0; only the samples of a batch are read.
        targets: The teacher's answers, one array each; or the teacher, to be asked batch by batch,
            where its answers to everything would not fit into memory.
        labels: One array for each output that has some.
        augment: Changes the inputs of training batches. The teacher is asked about what came of
            it, as a teacher must be who teaches the same function (Beyer et al. 2022,
            arXiv:2106.05237, section 3.2), so `targets` must be the teacher itself.
    """

    def __init__(
        self,
        inputs: Sequence[Column],
        targets: Sequence[Array] | Teacher,
        labels: Sequence[Array],
        augment: Augment | None = None,
    ) -> None:
        self._inputs, self._targets, self._labels = inputs, targets, labels
        self._augment = augment

    def __len__(self) -> int:
        return len(self._inputs[0])

    @property
    def width(self) -> int:
        """Number of inputs, which come first in a batch."""
        return len(self._inputs)

    def batch(self, index: Array, *, training: bool = False) -> list[Array]:
        """Returns the inputs, then the teacher's answers, then the labels of some samples.

        Args:
            index: The samples' numbers.
            training: Whether to augment.

        Raises:
            DataError: The augmentation changed a shape or a dtype.
        """
        inputs: Sequence[Array] = [array[index] for array in self._inputs]
        if training and self._augment is not None:
            inputs = _augmented(self._augment, inputs)
        if callable(self._targets):
            targets = self._targets(inputs)
        else:
            targets = [array[index] for array in self._targets]
        return [*inputs, *targets, *(array[index] for array in self._labels)]


def _augmented(augment: Augment, inputs: Sequence[Array]) -> list[Array]:
    changed = [np.asarray(array) for array in augment(inputs)]
    before, after = ([(a.shape, str(a.dtype)) for a in arrays] for arrays in (inputs, changed))
    if before != after:
        raise DataError(
            f"the augmentation must return arrays of the shapes and dtypes that it gets: {before}; "
            f"it returned {after}"
        )
    return changed
