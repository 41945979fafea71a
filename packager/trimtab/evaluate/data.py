"""Data sets as values: inputs that need not lie in memory, and labels and groups that do.

An input is a `Column`: a numpy array, or anything that reads like one (`numpy.memmap`, an HDF5
dataset, the images of a folder). Whoever can work in blocks uses `Split.batches` or `Split.take`
and never has more than these in memory; `Split.inputs` is for those who need arrays, and refuses
what is larger than `MEMORY_BOUND_BYTES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab_agent.contract.processing import InputStep

Array = NDArray[Any]

MEMORY_BOUND_BYTES = 2 * 1024**3
"""The most that `Split.inputs` brings into memory: half of a small host's 4 GiB."""


class Column(Protocol):
    """One input of a split, samples along the first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what indexing returns."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Array:
        """Returns the samples of a slice or of an array of indices."""
        ...


class Split:
    """One part of a data set.

    Args:
        inputs: One column per model input, in the model's order, with the same samples in each.
        labels: What is known of the samples, in the form that the task asks for
            (docs/data.md); None without labels.
        groups: Names or numbers, shape `[samples]`, of what may not be harmed; None without.
        rows: Where each sample is in what the user gave; None where it is in its place.
    """

    def __init__(
        self,
        *,
        inputs: Sequence[Column],
        labels: Array | None = None,
        groups: Array | None = None,
        rows: Array | None = None,
    ) -> None:
        self.columns = tuple(inputs)
        self.labels = labels
        self.groups = groups
        self._rows = rows

    def __len__(self) -> int:
        return len(self.columns[0])

    @cached_property
    def inputs(self) -> tuple[Array, ...]:
        """One array per model input; what is not in memory yet is read, once.

        Raises:
            DataError: That would take more than `MEMORY_BOUND_BYTES`.
        """
        total = sum(
            math.prod(column.shape) * column.dtype.itemsize
            for column in self.columns
            if not isinstance(column, np.ndarray)
        )
        if total > MEMORY_BOUND_BYTES:
            raise DataError(
                f"{len(self)} samples take {total / 1e9:.1f} GB in memory, more than the "
                f"{MEMORY_BOUND_BYTES / 1e9:.1f} GB that are allowed; use fewer or smaller samples"
            )
        return tuple(np.asarray(column[:]) for column in self.columns)

    def row(self, sample: int) -> int:
        """Returns where a sample is in what the user gave, for messages."""
        return sample if self._rows is None else int(self._rows[sample])

    def take(self, index: Array) -> tuple[Array, ...]:
        """Returns the samples with these numbers, one array per input."""
        return tuple(np.asarray(column[index]) for column in self.columns)

    def batches(self, size: int) -> Iterator[tuple[Array, ...]]:
        """Yields all samples in order, `size` at a time, one array per input."""
        for start in range(0, len(self), size):
            yield tuple(np.asarray(column[start : start + size]) for column in self.columns)

    def subset(self, index: Array) -> Split:
        """Returns a split of the samples with these numbers; nothing is read for it."""
        return Split(
            inputs=[_Selection(column, index) for column in self.columns],
            labels=None if self.labels is None else self.labels[index],
            groups=None if self.groups is None else self.groups[index],
            rows=index if self._rows is None else self._rows[index],
        )


class _Selection:
    """Some samples of a column, read when they are asked for."""

    def __init__(self, column: Column, index: Array) -> None:
        self.column, self._index = column, index
        self.shape = (len(index), *column.shape[1:])
        self.dtype = column.dtype

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: Any, /) -> Array:
        return self.column[self._index[index]]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set.

    Attributes:
        source: Where it came from, for messages.
        train: For calibration, training and the choice of what to prune.
        test: For evaluation only.
        class_names: By class number, if the data names its classes.
        task: What the labels are for (`trimtab.evaluate.tasks.TASKS`); None if nobody has said.
        held_out: Whether the test samples are training samples that were held out.
        processing: What was done to each sample of the first input, where the loader knows it:
            an application must do the same.
    """

    source: str
    train: Split
    test: Split
    class_names: tuple[str, ...] | None = None
    task: str | None = None
    held_out: bool = False
    processing: tuple[InputStep, ...] = ()

    def calibration(self, count: int, seed: int) -> tuple[Array, ...]:
        """Returns `count` training samples, drawn without replacement.

        Args:
            count: How many; all of them if there are fewer.
            seed: The same seed draws the same samples.

        Returns:
            One array per model input, in the model's order, the same samples in each.
        """
        generator = np.random.default_rng(seed)
        chosen = generator.permutation(len(self.train))[:count]
        return self.train.take(chosen)


def is_cheap(column: Column) -> bool:
    """Says whether all of a column can be looked at in no time: in memory, or a file's bytes."""
    from trimtab.evaluate.stored import StoredArray

    if isinstance(column, _Selection):
        return is_cheap(column.column)
    return isinstance(column, np.ndarray | StoredArray)


HELD_OUT_SHARE = 0.2
_HELD_OUT_SEED = 0
"""Not the user's seed: two runs that differ in it must be judged on the same samples."""


def hold_out(split: Split) -> tuple[Split, Split]:
    """Parts a split that came without a test part.

    A fifth is held out, at random but always the same; of each class a fifth, where labels are
    class numbers.

    Returns:
        What is left for training, and what is held out for evaluation.

    Raises:
        DataError: There are fewer than two samples.
    """
    if len(split) < 2:
        raise DataError(f"{len(split)} samples cannot be parted into training and test samples")
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(len(split))
    labels = split.labels
    if labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        order = order[np.argsort(labels[order], kind="stable")]
    # Every fifth of an order by class; the offset leaves a class of one sample to training.
    every = round(1 / HELD_OUT_SHARE)
    held_out = np.zeros(len(split), bool)
    held_out[order[min(every, len(split)) - 1 :: every]] = True
    return split.subset(np.flatnonzero(~held_out)), split.subset(np.flatnonzero(held_out))
