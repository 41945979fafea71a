"""The golden samples: outputs that a package promises, and whether this device gives them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.npyio import NpzFile

from trimtab_agent.bench.task_metric import score
from trimtab_agent.contract.manifest import Golden, TensorSpec
from trimtab_agent.contract.messages import GoldenCheck, TaskCheck
from trimtab_agent.errors import AccuracyError, CallerError, FormatError, GoldenError
from trimtab_agent.runtimes import Session, run_samples

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


# What numpy and zipfile raise for a file that is missing, cut short, altered or not theirs.
# MemoryError is numpy's answer to a header that promises terabytes.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)

# Samples that are run a second time; each takes as long as an inference.
_BACKWARDS = 16


@dataclass(frozen=True)
class Samples:
    """The arrays of a golden file, in the model's order, samples along the first axis.

    Attributes:
        inputs: One for each input.
        outputs: What the package promises, one for each output.
        labels: What is right; None where the file has none.
    """

    inputs: list[Array]
    outputs: list[Array]
    labels: Array | None = None

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.inputs[0])


def load_samples(path: Path) -> Samples:
    """Reads a golden file: an `.npz` with the arrays `in_<i>`, `out_<i>` and perhaps `labels`.

    Raises:
        FormatError: The file is missing, no `.npz`, or its arrays are not numbered from 0 or
            differ in their number of samples.
    """
    try:
        # Opened here, because numpy leaves the file open when it is no archive. Pickled objects
        # could run code, and a package is data.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            _check_stored(archive)
            members = {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise FormatError(f"golden samples {path} cannot be read: {error}") from error
    arrays = {name: member for name, member in members.items() if isinstance(member, np.ndarray)}
    samples = Samples(
        inputs=_series(arrays, "in"), outputs=_series(arrays, "out"), labels=arrays.get("labels")
    )
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if not samples.inputs or not samples.outputs or len(counts) != 1 or counts == {0}:
        found = {name: array.shape for name, array in arrays.items()}
        raise FormatError(
            f"golden samples {path} must hold in_0, in_1, ... and out_0, out_1, ... with the "
            f"same number of samples; it holds {found}"
        )
    return samples


def _check_stored(archive: NpzFile) -> None:
    """Refuses members that are compressed: a megabyte of them can unpack to a gigabyte.

    Raises:
        ValueError: One is.
    """
    assert archive.zip is not None, "it is open"
    packed = [info.filename for info in archive.zip.infolist() if info.compress_type]
    if packed:
        raise ValueError(f"{', '.join(packed)} must be stored, not compressed")


def check(session: Session, samples: Samples, golden: Golden) -> GoldenCheck:
    """Runs every golden sample and compares.

    Args:
        session: The model on this device.
        samples: Inputs and the outputs that are promised.
        golden: How many samples there are, and the limit.

    Raises:
        FormatError: The samples do not fit the model or the manifest.
        GoldenError: An output differs by more than the limit, is NaN or infinite, or depends on
            the samples before.
        AccuracyError: The outputs fit the labels worse than the package accepts.
    """
    if samples.count != golden.count:
        raise FormatError(
            f"{golden.path} holds {samples.count} samples, the manifest promises {golden.count}"
        )
    outputs = _run(session, samples.inputs, golden)
    limit = golden.max_abs_error
    worst = compare(outputs, samples.outputs, session.outputs, limit=limit)
    _check_order(session, samples, golden)
    return GoldenCheck(
        samples=samples.count,
        max_abs_error=worst,
        limit=limit,
        task=_check_task(outputs[0], samples.labels, golden),
    )


def _run(session: Session, inputs: Sequence[Array], golden: Golden) -> list[Array]:
    """Runs samples one by one."""
    try:
        return run_samples(session, inputs)
    except CallerError as error:
        raise FormatError(f"{golden.path} does not fit the model: {error}") from error


def _check_order(session: Session, samples: Samples, golden: Golden) -> None:
    """Runs the last samples again, backwards: an answer must not depend on what came before."""
    backwards = slice(None, -_BACKWARDS - 1, -1)
    outputs = _run(session, [array[backwards] for array in samples.inputs], golden)
    expected = [array[backwards] for array in samples.outputs]
    try:
        compare(outputs, expected, session.outputs, limit=golden.max_abs_error)
    except GoldenError as error:
        raise GoldenError(
            "the model keeps something from one run to the next: it gives what the package "
            f"promises in one order of the golden samples, but backwards {error}"
        ) from error


def _check_task(output: Array, labels: Array | None, golden: Golden) -> TaskCheck | None:
    """Computes the task's figure, if the package ships labels."""
    task = golden.task
    if task is None:
        return None
    if labels is None:
        raise FormatError(f"{golden.path} has no labels; the manifest promises {task.metric}")
    value = score(task.metric, output, labels, threshold=task.threshold)
    if not task.accepts(value):
        raise AccuracyError(
            f"{task.metric} on the golden samples is {value:.4g} here; the package had "
            f"{task.value:.4g} on the host and accepts {task.limit:.4g}"
        )
    return TaskCheck(metric=task.metric, value=value, host_value=task.value, limit=task.limit)


def compare(
    outputs: Sequence[Array],
    expected: Sequence[Array],
    specs: Sequence[TensorSpec],
    *,
    limit: float,
) -> float:
    """Returns the largest absolute difference of any element.

    Args:
        outputs: What the device gave, one array for each output, samples along the first axis.
        expected: What the package promises, likewise.
        specs: The outputs' names.
        limit: Largest difference that is accepted.

    Raises:
        GoldenError: The limit is passed, a value is NaN or infinite, or numbers, shapes or
            dtypes differ; names the sample and the output.
    """
    if len(outputs) != len(expected):
        raise GoldenError(f"the model gives {len(outputs)} outputs, not {len(expected)}")
    worst = 0.0
    for index, (actual, want, spec) in enumerate(zip(outputs, expected, specs, strict=True)):
        place = f"output {index} ({spec.name})"
        if actual.shape != want.shape:
            raise GoldenError(f"{place} has the shape {actual.shape}, not {want.shape}")
        if actual.dtype != want.dtype:
            raise GoldenError(f"{place} has the dtype {actual.dtype}, not {want.dtype}")
        finite = np.isfinite(actual).reshape(len(actual), -1).all(axis=1)
        if not finite.all():
            raise GoldenError(f"{place} is NaN or infinite in golden sample {np.argmin(finite)}")
        # In float64, so that integer outputs cannot wrap around.
        errors = np.abs(actual.astype(np.float64) - want.astype(np.float64))
        errors = errors.reshape(len(errors), -1).max(axis=1, initial=0.0)
        sample = int(np.argmax(errors))  # argmax finds a NaN before any number
        if not errors[sample] <= limit:
            raise GoldenError(
                f"{place} differs by {errors[sample]:.6g} in golden sample {sample}; "
                f"the limit is {limit:.6g}"
            )
        worst = max(worst, float(errors[sample]))
    return worst


def _series(arrays: dict[str, Array], prefix: str) -> list[Array]:
    """Returns `<prefix>_0`, `<prefix>_1`, ... up to the first that is missing."""
    series: list[Array] = []
    while (name := f"{prefix}_{len(series)}") in arrays:
        series.append(arrays[name])
    return series
