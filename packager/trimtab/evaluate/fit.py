"""Whether a data set fits a model and a task: every fault named, before any long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.evaluate.data import Column, Dataset, Split, is_cheap
from trimtab.evaluate.tasks.choose import find_blank
from trimtab.evaluate.tasks.sequences import PADDING
from trimtab_agent.contract.manifest import TensorSpec

Array = NDArray[Any]
Shape = Sequence[int | None]

_BLOCK = 256
_RANGE_SAMPLES = 256
_RANGE_RATIO = 30.0
"""Pixels 0 to 255 beside pixels 0 to 1 make 255, millivolts beside volts 1000; other people, days
and lights make no more than a few."""


def check_fits(dataset: Dataset, inputs: Sequence[TensorSpec], output: Shape, task: str) -> None:
    """Checks that a data set fits a model.

    Args:
        dataset: The data set. Inputs in memory are looked at whole; of others, which are read
            only when they are used, the shapes and some samples.
        inputs: The model's inputs, the batch axis first.
        output: Shape of its first output, None for free sizes.
        task: What the labels are for.

    Raises:
        DataError: It does not fit. The message names every array at fault, with what was
            expected and what was received.
    """
    faults = list(_split_faults("train", dataset.train, inputs, output, task))
    if not dataset.held_out:
        faults += _split_faults("test", dataset.test, inputs, output, task)
    elif not faults:  # what was held out has the same shape, and rows of its own
        faults += _split_faults("train", dataset.test, inputs, output, task)
    if not faults:
        faults = [*_range_faults(dataset), *_test_faults(dataset.test, task)]
    if faults:
        raise DataError(f"{dataset.source} does not fit the model: {'; '.join(faults)}")


def _split_faults(
    name: str, split: Split, inputs: Sequence[TensorSpec], output: Shape, task: str
) -> Iterator[str]:
    """Yields what is wrong with one split."""
    if len(split.columns) != len(inputs):
        yield f"the model has {len(inputs)} inputs, x_{name} gives {len(split.columns)}"
        return
    several = len(inputs) > 1
    for column, spec in zip(split.columns, inputs, strict=True):
        full = f"x_{name}.{spec.name}" if several else f"x_{name}"
        yield from _input_faults(full, column, spec, split)
    counts = [column.shape[0] if column.shape else 0 for column in split.columns]
    if len(set(counts)) > 1:
        yield f"the inputs of x_{name} have different numbers of samples: {counts}"
    if split.labels is not None:
        check = _LABEL_FAULTS.get(task, _any_faults)
        faults = list(check(f"y_{name}", split, output))
        yield from faults
        if not faults and len(split.labels) != counts[0]:
            yield f"y_{name} has {len(split.labels)} labels for {counts[0]} samples"
    if split.groups is not None and split.groups.shape != (counts[0],):
        shape = _shape(split.groups.shape)
        yield f"group_{name} must have the shape [{counts[0]}], one group each, not {shape}"


def _input_faults(name: str, column: Column, spec: TensorSpec, split: Split) -> Iterator[str]:
    """Yields what is wrong with an input. Each check relies on those before it."""
    expected = ("samples", *("any" if size is None else size for size in spec.shape[1:]))
    shape = column.shape
    fits = len(shape) == len(expected) and all(
        size in (None, received) for size, received in zip(spec.shape[1:], shape[1:], strict=True)
    )
    if not fits:
        way_out = _transposition(spec.shape[1:], shape[1:])
        yield f"{name} must have the shape {_shape(expected)}, not {_shape(shape)}{way_out}"
    elif shape[0] == 0:
        yield f"{name} is empty"
    if column.dtype != np.dtype(spec.dtype):
        yield _dtype_fault(name, column.dtype, spec.dtype)
    elif fits and np.issubdtype(column.dtype, np.inexact) and is_cheap(column):
        yield from _not_finite(name, column, split)


def _dtype_fault(name: str, received: np.dtype[Any], wanted: str) -> str:
    if received.kind in "OUS":
        return f"{name} must be {wanted}, not text or objects ({received})"
    return (
        f"{name} must be {wanted}, not {received}: convert it the way the model's training data was"
    )


def _transposition(wanted: Shape, received: Sequence[int]) -> str:
    """Says how to bring channels to where the model has them, if that is all."""
    if len(wanted) != len(received) or len(wanted) < 2:
        return ""
    last = len(wanted)
    for axes in ((*range(1, last), 0), (last - 1, *range(last - 1))):
        moved = [received[axis] for axis in axes]
        if all(want in (None, got) for want, got in zip(wanted, moved, strict=True)):
            order = ", ".join(str(axis) for axis in (0, *(axis + 1 for axis in axes)))
            return f"; its channels are elsewhere: numpy.transpose(x, ({order})) moves them"
    return ""


def _not_finite(name: str, column: Column, split: Split) -> Iterator[str]:
    """Looks at all values, a block at a time."""
    bad, first = 0, None
    for start in range(0, len(column), _BLOCK):
        block = np.asarray(column[start : start + _BLOCK])
        wrong = ~np.isfinite(block)
        if wrong.any():
            bad += int(np.count_nonzero(wrong))
            if first is None:
                first = start + int(np.argmax(wrong.reshape(len(block), -1).any(axis=1)))
    if first is not None:
        yield f"{name} has {bad} values that are not finite, the first in sample {split.row(first)}"


def _range_faults(dataset: Dataset) -> Iterator[str]:
    """Yields inputs that span wildly different ranges in training and test samples."""
    pairs = zip(dataset.train.columns, dataset.test.columns, strict=True)
    for index, (train, test) in enumerate(pairs):
        if not np.issubdtype(train.dtype, np.inexact):
            continue
        spans = [_span(column) for column in (train, test)]
        widths = [high - low for low, high in spans]
        if min(widths) > 0 and max(widths) / min(widths) > _RANGE_RATIO:
            (low, high), (test_low, test_high) = spans
            yield (
                f"input {index} spans {low:.3g} to {high:.3g} in the training samples and "
                f"{test_low:.3g} to {test_high:.3g} in the test samples; scale both the way the "
                "model's training data was"
            )


def _span(column: Column) -> tuple[float, float]:
    """Returns where nearly all values of some samples lie."""
    chosen = np.linspace(0, len(column) - 1, min(len(column), _RANGE_SAMPLES)).astype(int)
    low, high = np.quantile(np.asarray(column[chosen]), [0.001, 0.999])
    return float(low), float(high)


def _test_faults(split: Split, task: str) -> Iterator[str]:
    """Yields labels that leave a figure undefined."""
    labels = split.labels
    if labels is None:
        return
    if task == "regression" and (labels == labels[:1]).all():
        yield "y_test is the same for all samples, which leaves R2 undefined"
    if task == "anomaly" and len(np.unique(labels)) < 2:
        yield "y_test has only one of 0 (normal) and 1 (anomaly), which leaves the AUC undefined"


def _class_faults(name: str, split: Split, output: Shape) -> Iterator[str]:
    labels = _labels(split)
    if labels.ndim != 1:
        yield (
            f"{name} must have the shape [samples], one class number each, "
            f"not {_shape(labels.shape)}"
        )
    elif not np.issubdtype(labels.dtype, np.integer):
        yield f"{name} must be whole class numbers, such as int64, not {labels.dtype}"
    else:
        last = output[-1] if len(output) > 1 else 1
        yield from _outside(name, split, 2 if last == 1 else last)


def _outside(
    name: str, split: Split, classes: int | None, padding: int | None = None
) -> Iterator[str]:
    if classes is None:
        return
    labels = _labels(split)
    outside = ((labels < 0) | (labels >= classes)) & (labels != padding)
    if outside.any():
        place = tuple(int(axis[0]) for axis in np.nonzero(outside))
        yield (
            f"{name} has {np.count_nonzero(outside)} labels outside 0 to {classes - 1}, such as "
            f"{labels[place]} of sample {split.row(place[0])}: "
            f"the model tells {classes} classes apart"
        )


def _labels(split: Split) -> Array:
    assert split.labels is not None, "only splits with labels are checked"
    return split.labels


def _number_faults(name: str, split: Split, output: Shape) -> Iterator[str]:
    labels = _labels(split)
    wanted = [size for size in output[1:] if size != 1]
    received = [size for size in labels.shape[1:] if size != 1]
    if len(wanted) != len(received) or any(
        want not in (None, got) for want, got in zip(wanted, received, strict=True)
    ):
        expected = ("samples", *("any" if size is None else size for size in output[1:]))
        yield f"{name} must have the shape {_shape(expected)}, not {_shape(labels.shape)}"
    if not np.issubdtype(labels.dtype, np.number):
        yield f"{name} must be numbers, not {labels.dtype}"
    elif not np.isfinite(labels).all():
        wrong = ~np.isfinite(labels.reshape(len(labels), -1)).all(axis=1)
        yield (
            f"{name} has {np.count_nonzero(wrong)} samples whose values are not finite, the first "
            f"is sample {split.row(int(np.argmax(wrong)))}"
        )


def _token_faults(name: str, split: Split, output: Shape) -> Iterator[str]:
    labels = _labels(split)
    expected = ("samples", *("any" if size is None else size for size in output[1:-1]))
    if len(output) < 3:
        yield f"the task tokens needs outputs [samples, positions, classes], not {_shape(output)}"
    elif labels.ndim != len(output) - 1 or any(
        want not in (None, got) for want, got in zip(output[1:-1], labels.shape[1:], strict=True)
    ):
        yield f"{name} must have the shape {_shape(expected)}, not {_shape(labels.shape)}"
    elif not np.issubdtype(labels.dtype, np.integer):
        yield f"{name} must be whole class numbers, {PADDING} for padding, not {labels.dtype}"
    else:
        yield from _outside(name, split, output[-1], PADDING)


def _ctc_faults(name: str, split: Split, output: Shape) -> Iterator[str]:
    labels = _labels(split)
    if len(output) != 3:
        yield f"the task ctc needs outputs [samples, positions, classes], not {_shape(output)}"
    elif labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        yield (
            f"{name} must be whole numbers [samples, tokens], padded with {PADDING}, "
            f"not {labels.dtype} {_shape(labels.shape)}"
        )
    else:
        yield from _outside(name, split, output[-1], PADDING)
        try:
            find_blank(labels, output[-1] or 0)
        except DataError as error:
            yield f"{name}: {error}"


def _anomaly_faults(name: str, split: Split, _output: Shape) -> Iterator[str]:
    labels = _labels(split)
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        yield f"{name} must be 0 (normal) or 1 (anomaly), shape [samples]"


def _any_faults(_name: str, _split: Split, _output: Shape) -> Iterator[str]:
    """Nothing is known of labels that only a user's function reads, or nobody does."""
    return iter(())


_LABEL_FAULTS: Mapping[str, Callable[[str, Split, Shape], Iterator[str]]] = {
    "classification": _class_faults,
    "regression": _number_faults,
    "tokens": _token_faults,
    "ctc": _ctc_faults,
    "anomaly": _anomaly_faults,
}


def _shape(sizes: Sequence[object]) -> str:
    """Returns a shape as people write it, such as `[samples, 100, 6]`."""
    return f"[{', '.join('any' if size is None else str(size) for size in sizes)}]"
