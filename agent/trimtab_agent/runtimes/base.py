"""The port that every runtime implements, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trimtab_agent.contract.manifest import Option, RuntimeName, TensorSpec
from trimtab_agent.contract.measurement import OperatorTime
from trimtab_agent.contract.session_options import option_faults
from trimtab_agent.errors import CallerError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = [
    "Foreign",
    "Option",
    "Session",
    "check_arrays",
    "check_options",
    "run_samples",
    "show_shape",
    "sum_operators",
]

Foreign = Any
"""An object of a runtime: none of them ships type information."""


class Session(Protocol):
    """A model that is loaded and ready to run.

    Attributes:
        inputs: In the order that the file lists them, which is the order of `run`'s arguments.
            A dimension of None is free. A file whose batch is fixed to 1 takes arrays whose
            first dimension is 1. Integers that stand for real numbers have `quantization` where
            the runtime tells it: TFLite does, the others keep it in the graph.
        outputs: In the order that the file lists them.
        provider: What executes the graph, such as `XNNPACK`, `CPUExecutionProvider` or `CPU`,
            several joined by commas; None when the runtime does not tell. After the first run it
            is what has executed it.
        version: The runtime's version.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the file's order."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the file's order."""
        ...

    @property
    def provider(self) -> str | None:
        """What executes the graph, or None."""
        ...

    @property
    def version(self) -> str:
        """The runtime's version."""
        ...

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Runs one inference.

        Args:
            arrays: One array for each of `inputs`, of exactly its dtype, in the file's layout.

        Returns:
            One array for each of `outputs`, owned by the caller: the next run leaves it alone.

        Raises:
            CallerError: The number of arrays, a shape or a dtype does not fit.
            DeviceError: The runtime failed while it executed the graph.
            RuntimeUnavailableError: The graph did not run where the options want it.
        """
        ...

    def profile(self, arrays: Sequence[Array], runs: int) -> tuple[OperatorTime, ...] | None:
        """Times every operator, by the runtime's own profiler, and after one run for warm-up.

        The model is loaded a second time for it: a profiler slows down what it watches.

        Args:
            arrays: As for `run`.
            runs: Inferences to add up, at least 1.

        Returns:
            The operators, dearest first; None when the runtime's Python interface has no profiler.

        Raises:
            As `run`.
        """
        ...


def check_arrays(specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> None:
    """Checks that arrays fit a model's inputs.

    Raises:
        CallerError: Their number, a shape or a dtype does not fit; says what was expected and
            what was received.
    """
    if len(arrays) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        raise CallerError(f"the model takes {len(specs)} inputs ({names}), got {len(arrays)}")
    for index, (spec, array) in enumerate(zip(specs, arrays, strict=True)):
        if array.dtype.name != spec.dtype:
            raise CallerError(
                f"input {index} ({spec.name}) takes {spec.dtype}, got {array.dtype.name}"
            )
        if not _fits(spec.shape, array.shape):
            raise CallerError(
                f"input {index} ({spec.name}) takes the shape {show_shape(spec.shape)}, "
                f"got {show_shape(array.shape)}"
            )


def check_options(runtime: RuntimeName, options: Mapping[str, Option]) -> None:
    """Refuses session options that a runtime would ignore without a word.

    Raises:
        CallerError: An option is unknown or has a value of another type; all are named.
    """
    faults = option_faults(runtime, options)
    if faults:
        raise CallerError("; ".join(faults))


def sum_operators(calls: Iterable[OperatorTime]) -> tuple[OperatorTime, ...]:
    """Adds up the calls of each operator and returns the operators, dearest first."""
    sums: dict[tuple[str, str, str | None], OperatorTime] = {}
    for call in calls:
        key = call.name, call.operator, call.kernel
        so_far = sums.get(key)
        sums[key] = (
            call
            if so_far is None
            else msgspec.structs.replace(
                so_far, calls=so_far.calls + call.calls, time_us=so_far.time_us + call.time_us
            )
        )
    return tuple(sorted(sums.values(), key=lambda each: -each.time_us))


def show_shape(shape: Sequence[int | None]) -> str:
    """Returns a shape as text, free dimensions as `?`: `[?, 128, 6]`."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def run_samples(session: Session, arrays: Sequence[Array]) -> list[Array]:
    """Runs samples one by one, as a device does, and stacks what comes out.

    Args:
        session: The model. A first dimension that is free or 1 is the batch; an input or output
            without one, as a state of two layers, is of one sample as it is.
        arrays: One array for each input, samples along the first axis, any number of them.

    Returns:
        One array for each output, samples along the first axis, in the order given.

    Raises:
        CallerError: The arrays have no samples, differ in their number, or do not fit.
        DeviceError: The runtime failed.
    """
    import numpy as np

    counts = {len(array) for array in arrays}
    if len(counts) != 1 or counts == {0}:
        raise CallerError(f"inputs need the same number of samples, at least 1; got {counts}")
    ranks = [len(spec.shape) for spec in session.inputs]

    def sample(array: Array, rank: int, index: int) -> Array:
        own = len(array.shape) == rank + 1
        return np.asarray(array[index] if own else array[index : index + 1])

    rows = [
        session.run([sample(array, rank, index) for array, rank in zip(arrays, ranks, strict=True)])
        for index in range(counts.pop())
    ]
    return [
        np.concatenate(column) if _has_batch(spec.shape, column[0]) else np.stack(column)
        for spec, column in zip(session.outputs, zip(*rows, strict=True), strict=True)
    ]


def _has_batch(shape: Sequence[int | None], result: Array) -> bool:
    # A runtime that does not know a shape may report none, as for a scalar.
    return result.ndim > 0 and (not shape or shape[0] in (None, 1))


def _fits(expected: Sequence[int | None], actual: Sequence[int]) -> bool:
    """Says whether a shape is one of those that `expected`, with its free dimensions, allows."""
    return len(expected) == len(actual) and all(
        want is None or want == got for want, got in zip(expected, actual, strict=True)
    )
