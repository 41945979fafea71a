"""What tests of compression techniques give them: surroundings, samples and small data sets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from trimtab.compress.context import Context
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile


def context(
    teacher: ir.Model, dataset: Dataset | None = None, log: Callable[[str], None] = lambda _: None
) -> Context:
    return Context(
        profile=load_profile("generic-x86-64"), dataset=dataset, teacher=teacher, seed=0, log=log
    )


def samples(model: ir.Model, count: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = [[count, *list(value.shape)[1:]] for value in model.graph.inputs]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def small_dataset(model: ir.Model, count: int = 64) -> Dataset:
    """Noise, labelled by the model itself, so that training has something to come back to."""
    inputs = tuple(samples(model, count))
    split = Split(inputs=inputs, labels=run_graph(model, inputs)[0].argmax(axis=1))
    return Dataset(source="test", train=split, test=split)
