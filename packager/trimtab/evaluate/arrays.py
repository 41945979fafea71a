"""Named arrays to a data set: the form that `.npz` files and users' functions have in common.

    x_train, x_test               inputs of a model with one input
    x_train.<input>, ...          inputs of a model with several, by the model's names
    y_train, y_test               labels, optional
    group_test                    group of each test sample, optional

Without test samples, a part of the training samples is held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trimtab.errors import DataError
from trimtab.evaluate.data import Column, Dataset, Split, hold_out
from trimtab_agent.contract.manifest import TensorSpec

PARTS = ("train", "test")
_FORM = (
    "it must have x_train, should have x_test, and may have y_train, y_test and group_test "
    "(docs/data.md)"
)


def is_data_name(name: str) -> bool:
    """Says whether an array of this name belongs to a data set; others are left alone."""
    return name in {"x_train", "x_test", "y_train", "y_test", "group_train", "group_test"} or (
        name.startswith(("x_train.", "x_test."))
    )


def dataset_from_arrays(
    arrays: Mapping[str, Any], inputs: Sequence[TensorSpec], source: str
) -> Dataset:
    """Returns the data set that named arrays make up for a model.

    Args:
        arrays: Columns by the names above. Labels and groups are brought into memory.
        inputs: The model's inputs; they give the order.
        source: Where the arrays came from, for messages.

    Raises:
        DataError: An input has no array, or an array is named for an input that the model does
            not have; all such are named.
    """
    has_test = any(name == "x_test" or name.startswith("x_test.") for name in arrays)
    parts = PARTS if has_test else PARTS[:1]
    faults = [fault for part in parts for fault in _name_faults(arrays, inputs, part)]
    if faults:
        raise DataError(f"{source} {'; '.join(faults)}")
    train = _split(arrays, inputs, "train")
    if has_test:
        return Dataset(source=source, train=train, test=_split(arrays, inputs, "test"))
    lengths = {len(array) for array in (*train.columns, train.labels) if array is not None}
    if len(lengths) > 1:
        raise DataError(f"{source} has x_train and y_train of different lengths: {lengths}")
    train, test = hold_out(train)
    return Dataset(source=source, train=train, test=test, held_out=True)


def _name_faults(arrays: Mapping[str, Any], inputs: Sequence[TensorSpec], part: str) -> list[str]:
    """Returns what is wrong with the names of a part's inputs."""
    if f"x_{part}" in arrays and len(inputs) == 1:
        return []
    prefix = f"x_{part}."
    names = [spec.name for spec in inputs]
    given = [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]
    if not given and f"x_{part}" in arrays:
        wanted = ", ".join(prefix + name for name in names)
        return [f"has one array x_{part} for a model with {len(inputs)} inputs; name them {wanted}"]
    if not given and len(inputs) == 1:
        return [f"has no array x_{part}; {_FORM}"]
    missing = [prefix + name for name in names if name not in given]
    unknown = [prefix + name for name in given if name not in names]
    faults = [f"has no array {name}" for name in missing]
    faults += [f"has {name}, but the model's inputs are {', '.join(names)}" for name in unknown]
    return faults


def _split(arrays: Mapping[str, Any], inputs: Sequence[TensorSpec], part: str) -> Split:
    columns: list[Column] = [
        arrays[f"x_{part}.{spec.name}"]
        if f"x_{part}.{spec.name}" in arrays
        else arrays[f"x_{part}"]
        for spec in inputs
    ]
    labels, groups = arrays.get(f"y_{part}"), arrays.get(f"group_{part}")
    return Split(
        inputs=columns,
        labels=None if labels is None else np.asarray(labels),
        groups=None if groups is None else np.asarray(groups),
    )
