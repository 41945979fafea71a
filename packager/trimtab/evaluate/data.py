"""Data sets: `.npz` files with `x_train`, `x_test` and, if there are labels, `y_train`, `y_test`.

Samples lie along the first axis. A model with one input takes `x_train` and `x_test`; inside,
every split holds a tuple of arrays in the model's input order, so that models with several
inputs need no other form.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab_agent.contract.manifest import TensorSpec

Array = NDArray[Any]
_ARRAYS = ("x_train", "x_test", "y_train", "y_test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of a data set.

    Attributes:
        inputs: One array per model input, in the model's order, samples along the first axis.
        labels: Class numbers, shape `[samples]`, any integer dtype; None without labels.
    """

    inputs: tuple[Array, ...]
    labels: Array | None

    def __len__(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set, split by whoever made it.

    Attributes:
        source: Where it came from, for messages.
        train: For calibration, training and the choice of what to prune.
        test: For evaluation only.
    """

    source: str
    train: Split
    test: Split

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
        return tuple(array[chosen] for array in self.train.inputs)


def load_data(path: str | Path) -> Dataset:
    """Loads an `.npz` data set. Pickled objects are never loaded: they can run code.

    Raises:
        DataError: The file is missing, damaged, no `.npz`, holds pickled objects, or lacks an
            array. Whether the arrays fit a model is for `check_fits` to say.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    missing = [name for name in ("x_train", "x_test") if name not in arrays]
    if missing:
        raise DataError(
            f"{path} has no array {' and no array '.join(missing)}; "
            f"it must have x_train and x_test, and may have y_train and y_test"
        )
    return Dataset(
        source=str(path),
        train=Split(inputs=(arrays["x_train"],), labels=arrays.get("y_train")),
        test=Split(inputs=(arrays["x_test"],), labels=arrays.get("y_test")),
    )


def check_fits(dataset: Dataset, inputs: Sequence[TensorSpec], classes: int) -> None:
    """Checks that a data set fits a model.

    Args:
        dataset: The data set.
        inputs: The model's inputs, the batch axis first.
        classes: How many classes the model tells apart; labels are 0 to `classes - 1`.

    Raises:
        DataError: It does not fit. The message names every array at fault, with what was
            expected and what was received.
    """
    faults = [
        fault
        for name, split in (("train", dataset.train), ("test", dataset.test))
        for fault in _split_faults(name, split, inputs, classes)
    ]
    if faults:
        raise DataError(f"{dataset.source} does not fit the model: {'; '.join(faults)}")


def _read_arrays(path: Path) -> dict[str, Array]:
    """Reads the arrays that a data set consists of, and no others, from an `.npz` file."""
    try:
        if not zipfile.is_zipfile(path):
            path.stat()  # a missing file is not a file of the wrong kind
            raise DataError(f"{path} is no .npz file; make one with numpy.savez")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in _ARRAYS if name in archive}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds pickled objects, which are never loaded because they can run "
                f"code; save plain arrays of numbers"
            ) from error
        raise DataError(f"{path} is damaged: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _split_faults(
    name: str, split: Split, inputs: Sequence[TensorSpec], classes: int
) -> Iterator[str]:
    """Yields what is wrong with one split, for a model with these inputs and classes."""
    if len(split.inputs) != len(inputs):
        yield f"the model has {len(inputs)} inputs, x_{name} gives {len(split.inputs)}"
        return
    for array, spec in zip(split.inputs, inputs, strict=True):
        yield from _input_faults(f"x_{name}", array, spec)
    if split.labels is not None:
        samples = split.inputs[0].shape[0] if split.inputs[0].ndim else 0
        yield from _label_faults(f"y_{name}", split.labels, samples, classes)


def _input_faults(name: str, array: Array, spec: TensorSpec) -> Iterator[str]:
    """Yields what is wrong with an input array. Each check relies on those before it."""
    expected = ("samples", *("any" if size is None else size for size in spec.shape[1:]))
    fits = array.ndim == len(expected) and all(
        size in (None, received)
        for size, received in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        yield f"{name} must have the shape {_shape(expected)}, not {_shape(array.shape)}"
    elif len(array) == 0:
        yield f"{name} is empty"
    if array.dtype != np.dtype(spec.dtype):
        yield (
            f"{name} must be {spec.dtype}, not {array.dtype}: "
            f"convert it the way the model's training data was"
        )
    elif np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
        count = array.size - np.count_nonzero(np.isfinite(array))
        yield f"{name} has {count} values that are not finite"


def _label_faults(name: str, labels: Array, samples: int, classes: int) -> Iterator[str]:
    """Yields what is wrong with labels."""
    if labels.ndim != 1:
        yield (
            f"{name} must have the shape [samples], one class number each, "
            f"not {_shape(labels.shape)}"
        )
        return
    if not np.issubdtype(labels.dtype, np.integer):
        yield f"{name} must be whole class numbers, such as int64, not {labels.dtype}"
        return
    if len(labels) != samples:
        yield f"{name} has {len(labels)} labels for {samples} samples"
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        yield (
            f"{name} has {outside.size} labels outside 0 to {classes - 1}, such as {outside[0]}: "
            f"the model tells {classes} classes apart"
        )


def _shape(sizes: Sequence[object]) -> str:
    """Returns a shape as people write it, such as `[samples, 100, 6]`."""
    return f"[{', '.join(map(str, sizes))}]"
