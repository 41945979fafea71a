"""A model and its data, loaded and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import ModelError
from trimtab.evaluate.data import Dataset, check_fits, load_data
from trimtab.graph.access import shape_of
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph
from trimtab_agent.contract.chunks import sha256_hex
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
    """

    path: Path
    sha256: str
    model: ir.Model
    dataset: Dataset | None

    @cached_property
    def reference(self) -> list[NDArray[Any]]:
        """The model's outputs on the test samples, computed once."""
        return run_graph(self.model, self.samples)

    @property
    def samples(self) -> tuple[NDArray[Any], ...]:
        """The test samples, or noise where there is no data."""
        if self.dataset is not None:
            return self.dataset.test.inputs
        return tuple(_noise(spec) for spec in input_specs(self.model))


def load_source(model: Path, data: Path | None) -> Source:
    """Loads a model and its data.

    Raises:
        ModelError: The model's file is no model.
        DataError: The data cannot be read, or does not fit the model.
    """
    graph = load_model(model)
    dataset = None if data is None else load_data(data)
    if dataset is not None:
        check_fits(dataset, input_specs(graph), classes(graph))
    return Source(model, sha256_hex(model.read_bytes()), graph, dataset)


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


def classes(model: ir.Model) -> int:
    """Returns the size of the first output's last axis: how many classes a classifier has.

    Raises:
        ModelError: It is unknown.
    """
    shape = shape_of(model.graph.outputs[0])
    if not shape or shape[-1] is None:
        raise ModelError("the model's first output has a last dimension of unknown size")
    return shape[-1]


def _noise(spec: TensorSpec) -> NDArray[Any]:
    shape = [_RANDOM_SAMPLES, *(dim or 1 for dim in spec.shape[1:])]
    noise = np.random.default_rng(0).normal(size=shape)
    return noise.astype(spec.dtype)
