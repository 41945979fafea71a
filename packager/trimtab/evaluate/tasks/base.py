"""What a task is to the evaluation: what to keep of each sample, and which figures that gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Evidence = Mapping[str, Array]
"""What is kept of a model's outputs: named arrays, samples along the first axis. Outputs are
reduced batch by batch, so that a class number is kept of a thousand scores."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some samples, and what a model says to them.

    Attributes:
        inputs: One array per input, samples along the first axis.
        outputs: One array per output. Tasks look at the first.
        labels: Of the samples; None without.
    """

    inputs: Sequence[Array]
    outputs: Sequence[Array]
    labels: Array | None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure, as a function of how often each sample counts.

    Attributes:
        name: Such as `top1`.
        statistic: From evidence and counts, shape `[draws, samples]`, to a figure per draw.
        outcome: Where the figure is a share of samples: the column that says which of them, bool.
            It then has exact methods instead of the bootstrap.
        larger_is_better: False for errors.
        smooth: Whether the bootstrap applies; not to a smallest value.
    """

    name: str
    statistic: Callable[[Evidence, Array], Array]
    outcome: str | None = None
    larger_is_better: bool = True
    smooth: bool = True

    def value(self, evidence: Evidence) -> float:
        """Returns the figure on all samples; NaN where it is undefined."""
        samples = len(next(iter(evidence.values())))
        return float(self.statistic(evidence, np.ones((1, samples)))[0])


class Task(Protocol):
    """One kind of task. The first of its measures stands for the whole.

    Attributes:
        name: One of `TASKS`, or a user's `module:function`.
        part_measure: The measure by which classes and groups are compared; None where single
            samples have no figure.
        part_column: The column whose mean that is.
        has_classes: Whether labels are class numbers, one per sample.
    """

    name: str
    part_measure: Measure | None
    part_column: str
    has_classes: bool

    def observe(self, batch: Batch) -> Evidence:
        """Reduces one batch; without labels, to what `agree` needs."""
        ...

    def measures(self, evidence: Evidence) -> tuple[Measure, ...]:
        """Returns the figures that evidence gives; none without labels."""
        ...

    def agree(self, evidence: Evidence, reference: Evidence) -> Evidence:
        """Returns, per sample, how far two models agree."""
        ...

    @property
    def agreement(self) -> Measure:
        """The figure of `agree`'s evidence: 1 for models that answer the same."""
        ...


def ratio(numerator: str, denominator: str | None = None) -> Callable[[Evidence, Array], Array]:
    """Returns the statistic that divides two columns' sums; by the samples without the second."""

    def statistic(evidence: Evidence, counts: Array) -> Array:
        above = counts @ evidence[numerator].astype(np.float64)
        below = counts.sum(1) if denominator is None else counts @ evidence[denominator]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(above / below)

    return statistic


def one_minus(
    statistic: Callable[[Evidence, Array], Array],
) -> Callable[[Evidence, Array], Array]:
    """Returns the statistic that is 1 less another one."""
    return lambda evidence, counts: 1 - statistic(evidence, counts)


def flat(array: Array) -> Array:
    """Returns float64 samples as rows."""
    return array.reshape(len(array), -1).astype(np.float64)
