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

from trimtab_agent.contract.manifest import Golden, TensorSpec
from trimtab_agent.contract.messages import GoldenCheck
from trimtab_agent.errors import CallerError, FormatError, GoldenError
from trimtab_agent.runtimes import Session, run_samples

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


# What numpy and zipfile raise for a file that is missing, cut short, altered or not theirs.
_UNREADABLE = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Samples:
    """The arrays of a golden file, in the model's order, samples along the first axis."""

    inputs: list[Array]
    outputs: list[Array]

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.inputs[0])


def load_samples(path: Path) -> Samples:
    """Reads a golden file: an `.npz` with the arrays `in_<i>` and `out_<i>`.

    Raises:
        FormatError: The file is missing, no `.npz`, or its arrays are not numbered from 0 or
            differ in their number of samples.
    """
    try:
        # Opened here, because numpy leaves the file open when it is no archive. Pickled objects
        # could run code, and a package is data.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise FormatError(f"golden samples {path} cannot be read: {error}") from error
    arrays = {name: member for name, member in members.items() if isinstance(member, np.ndarray)}
    samples = Samples(inputs=_series(arrays, "in"), outputs=_series(arrays, "out"))
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if not samples.inputs or not samples.outputs or len(counts) != 1 or counts == {0}:
        found = {name: array.shape for name, array in arrays.items()}
        raise FormatError(
            f"golden samples {path} must hold in_0, in_1, ... and out_0, out_1, ... with the "
            f"same number of samples; it holds {found}"
        )
    return samples


def check(session: Session, samples: Samples, golden: Golden) -> GoldenCheck:
    """Runs every golden sample and compares.

    Args:
        session: The model on this device.
        samples: Inputs and the outputs that are promised.
        golden: How many samples there are, and the limit.

    Raises:
        FormatError: The samples do not fit the model or the manifest.
        GoldenError: An output differs by more than the limit, or is not finite.
    """
    if samples.count != golden.count:
        raise FormatError(
            f"{golden.path} holds {samples.count} samples, the manifest promises {golden.count}"
        )
    try:
        outputs = run_samples(session, samples.inputs)
    except CallerError as error:
        raise FormatError(f"{golden.path} does not fit the model: {error}") from error
    worst = compare(outputs, samples.outputs, session.outputs, limit=golden.max_abs_error)
    return GoldenCheck(samples=samples.count, max_abs_error=worst, limit=golden.max_abs_error)


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
        GoldenError: The limit is passed, a value is not finite, or numbers or shapes differ;
            names the sample and the output.
    """
    if len(outputs) != len(expected):
        raise GoldenError(f"the model gives {len(outputs)} outputs, not {len(expected)}")
    worst = 0.0
    for index, (actual, want, spec) in enumerate(zip(outputs, expected, specs, strict=True)):
        place = f"output {index} ({spec.name})"
        if actual.shape != want.shape:
            raise GoldenError(f"{place} has the shape {actual.shape}, not {want.shape}")
        # In float64, so that integer outputs cannot wrap around.
        with np.errstate(invalid="ignore"):  # infinity less infinity: found below
            errors = np.abs(actual.astype(np.float64) - want.astype(np.float64))
        errors = errors.reshape(len(errors), -1).max(axis=1, initial=0.0)
        sample = int(np.argmax(errors))  # argmax finds a NaN before any number
        if not np.isfinite(errors[sample]):
            raise GoldenError(f"{place} is not finite in golden sample {sample}")
        if errors[sample] > limit:
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
