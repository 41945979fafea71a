"""Golden samples: what the device must reproduce before a package may become active."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.errors import DataError
from trimtab.package.archive import write_archive
from trimtab_agent.contract.manifest import GoldenTask, TensorSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class GoldenSamples:
    """Inputs and the outputs that the packaged file gave for them on the host.

    Attributes:
        inputs: One array per input of the model, in its order; samples along axis 0.
        outputs: One array per output, likewise.
        max_abs_error: Largest difference that a device may show in any output element.
        labels: What is right, samples along axis 0; None where there are none, or no task that
            a device can judge.
        task: What the outputs reach by these labels, and what a device must; with `labels` only.
    """

    inputs: Sequence[Array]
    outputs: Sequence[Array]
    max_abs_error: float
    labels: Array | None = None
    task: GoldenTask | None = None

    @property
    def arrays(self) -> dict[str, Array]:
        """All arrays by their names in the file."""
        named = {f"in_{i}": array for i, array in enumerate(self.inputs)}
        named |= {f"out_{i}": array for i, array in enumerate(self.outputs)}
        return named if self.labels is None else {**named, "labels": self.labels}

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.inputs[0])

    def check_against(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """Checks that there is one array per input and output, of its dtype.

        Raises:
            DataError: The number of arrays or a dtype differs.
        """
        for role, arrays, specs in (
            ("input", self.inputs, inputs),
            ("output", self.outputs, outputs),
        ):
            given = [str(array.dtype) for array in arrays]
            wanted = [spec.dtype for spec in specs]
            if given != wanted:
                raise DataError(f"golden {role}s are {given}; the model's {role}s are {wanted}")


def encode_golden(golden: GoldenSamples) -> bytes:
    """Returns the samples as an `.npz` file: the same bytes for the same arrays, every time.

    Raises:
        DataError: There are no samples, or the arrays disagree about how many there are, or
            one holds objects, infinities or NaN, or there is a task and no labels.
    """
    _check(golden)
    named = sorted(golden.arrays.items())
    stream = io.BytesIO()
    write_archive(stream, ((f"{name}.npy", _encode_array(array)) for name, array in named))
    return stream.getvalue()


def _check(golden: GoldenSamples) -> None:
    if not golden.inputs or not golden.outputs:
        raise DataError("golden samples need at least one input and one output array")
    arrays = golden.arrays.values()
    counts = {array.shape[:1] for array in arrays}
    if len(counts) != 1 or counts & {(), (0,)}:
        shapes = [array.shape for array in arrays]
        raise DataError(f"golden samples must lie along axis 0, one or more of them, got {shapes}")
    for array in arrays:
        if array.dtype.hasobject:
            raise DataError(f"golden samples must be numbers, got an array of {array.dtype}")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise DataError("golden samples hold infinities or NaN, which no device can reproduce")
    if golden.task is not None and golden.labels is None:
        raise DataError(f"golden samples need labels for the metric {golden.task.metric}")


def _encode_array(array: Array) -> bytes:
    """Encodes one array in NumPy's NPY format 1.0: C order, little-endian."""
    stream = io.BytesIO()
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    np.lib.format.write_array(stream, plain, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
