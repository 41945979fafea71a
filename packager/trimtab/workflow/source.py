"""A model and its data, loaded and checked against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import ModelError
from trimtab.evaluate.data import Column, Dataset, Split
from trimtab.evaluate.fit import check_fits
from trimtab.evaluate.input_range import check_input_range
from trimtab.evaluate.load import load_data
from trimtab.evaluate.tasks import check_task, detect_task
from trimtab.evaluate.tasks.sequences import PADDING
from trimtab.graph.access import shape_of
from trimtab.graph.load import load_model
from trimtab.graph.run import GraphRunner, run_graph
from trimtab_agent.contract.manifest import TensorSpec

_RANDOM_SAMPLES = 16
"""Without data, exports are compared on noise: it shows a broken file, not a loss of accuracy."""


@dataclass(frozen=True)
class Source:
    """A trained model, with data or without.

    Attributes:
        path: The model's file.
        sha256: Of that file.
        model: The cleaned graph.
        dataset: The data, if there is any.
        doubt: What looks wrong about the data without being so for certain; None if nothing does.
    """

    path: Path
    sha256: str
    model: ir.Model
    dataset: Dataset | None
    doubt: str | None = None

    @cached_property
    def reference(self) -> list[NDArray[Any]]:
        """The model's outputs on the test samples, computed once; the samples are streamed."""
        return run_columns(self.model, self.samples)

    @property
    def samples(self) -> tuple[Column, ...]:
        """The test samples, or noise where there is no data; not all of them are in memory."""
        if self.dataset is not None:
            return self.dataset.test.columns
        return tuple(_noise(spec) for spec in input_specs(self.model))


def load_source(model: Path, data: str | Path | None, task: str | None = None) -> Source:
    """Loads a model and its data.

    Args:
        model: The model's file or folder.
        data: What `load_data` takes; None for no data.
        task: What labels are for; None to detect it.

    Raises:
        ModelError: The model's file is no model.
        DataError: The data cannot be read, does not fit the model, or leaves open what the model
            does.
    """
    if task is not None:
        check_task(task)
    graph = load_model(model)
    dataset, doubt = None, None
    if data is not None:
        dataset = prepare_data(data, input_specs(graph), output_shape(graph), task)
        doubt = check_input_range(dataset, partial(run_graph, graph))
    return Source(model, _digest(model), graph, dataset, doubt)


def prepare_data(
    data: str | Path, inputs: Sequence[TensorSpec], output: Sequence[int | None], task: str | None
) -> Dataset:
    """Loads a data set, settles what its labels are for, and checks that it fits.

    Args:
        data: What `load_data` takes.
        inputs: The model's inputs, the batch axis first.
        output: Shape of its first output.
        task: What labels are for; None to detect it.

    Returns:
        The data set. Its training samples keep labels only where these are what the outputs
        should be; where not, training goes by the original's answers.

    Raises:
        DataError: It cannot be read, does not fit, or leaves open what the model does.
    """
    dataset = load_data(data, inputs)
    shapes = [spec.shape for spec in inputs]
    if task is None:
        task = detect_task(dataset.test.labels, output, shapes)
    dataset = replace(dataset, task=task)
    check_fits(dataset, inputs, output, task)
    return dataset if _trains(task, dataset.train) else _without_training_labels(dataset)


def _trains(task: str, train: Split) -> bool:
    """Says whether labels are what the model's outputs should be, one by one."""
    if task == "tokens":
        return train.labels is None or not bool((train.labels == PADDING).any())
    return task in {"classification", "regression"}


def _without_training_labels(dataset: Dataset) -> Dataset:
    train = Split(inputs=dataset.train.columns, groups=dataset.train.groups)
    return replace(dataset, train=train)


def run_columns(
    model: ir.Model, columns: Sequence[Column], *, block: int = 256
) -> list[NDArray[Any]]:
    """Runs a graph over columns, `block` samples at a time.

    Returns:
        One array per output, samples along the first axis.
    """
    runner = GraphRunner(model)
    pieces = [
        runner.run([column[start : start + block] for column in columns])
        for start in range(0, len(columns[0]), block)
    ]
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Returns the graph's inputs.

    Raises:
        ModelError: An input's shape or data type is unknown.
    """
    specs = []
    for value in model.graph.inputs:
        shape = shape_of(value)
        if shape is None or value.dtype is None:
            raise ModelError(f"input {value.name!r} of the model has no shape or no data type")
        specs.append(TensorSpec(name=str(value.name), shape=shape, dtype=str(value.dtype.numpy())))
    return tuple(specs)


def output_shape(model: ir.Model) -> tuple[int | None, ...]:
    """Returns the shape of the graph's first output, None for free sizes.

    Raises:
        ModelError: It is unknown.
    """
    shape = shape_of(model.graph.outputs[0])
    if shape is None:
        raise ModelError("the model's first output has no shape")
    return shape


def _digest(path: Path) -> str:
    """Returns the SHA-256 of a model's file; of a folder's files, with their names, one by one."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for entry in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(f"{entry.relative_to(path)} {_digest(entry)}\n".encode())
    return digest.hexdigest()


def _noise(spec: TensorSpec) -> NDArray[Any]:
    # See `GraphRunner.run`: what has no batch axis takes an array of its own shape a sample.
    own = spec.shape[1:] if spec.shape[:1] in ((None,), (1,)) else spec.shape
    shape = [_RANDOM_SAMPLES, *(dim or 1 for dim in own)]
    noise = np.random.default_rng(0).normal(size=shape)
    return noise.astype(spec.dtype)
