"""How good a compressed model is: run in its real runtime, against the original's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ExportError
from trimtab.evaluate import metrics
from trimtab.evaluate.data import Split
from trimtab_agent.contract.manifest import Evaluation
from trimtab_agent.runtimes import Session, run_samples

Array = NDArray[Any]
Progress = Callable[[int, int], None]
"""Called with the samples done and the samples in all."""

_BLOCK = 64  # samples between two calls of `progress`: a few a second even on slow models


def evaluate(
    session: Session,
    split: Split,
    reference: Sequence[Array],
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs a model over a split and compares it with the original.

    Args:
        session: The compressed model, loaded in the runtime it was exported for.
        split: What to run it on; `check_fits` has passed it.
        reference: The original's outputs on the same samples, one array per output, samples
            along the first axis. The first output holds the class scores, shape
            `[samples, classes]`; with any other shape there is no top-1, and the largest
            difference is all there is to say.
        progress: Told about every block of samples.

    Returns:
        Accuracy (None without labels), agreement with the original, and the largest difference
        of any element of any output.

    Raises:
        ExportError: The model's outputs have other shapes than the original's, or are not finite.
        CallerError: The samples do not fit the session.
        DeviceError: The runtime failed.
    """
    outputs = _run(session, split, progress)
    _check(outputs, reference)
    error = max(
        metrics.max_abs_error(output, expected)
        for output, expected in zip(outputs, reference, strict=True)
    )
    scores, expected = outputs[0], reference[0]
    classifies = scores.ndim == 2 and scores.shape[1] > 1
    labels = split.labels if classifies else None
    return Evaluation(
        metric=None if labels is None else "top1",
        value=None if labels is None else metrics.top1(scores, labels),
        reference=None if labels is None else metrics.top1(expected, labels),
        agreement=metrics.agreement(scores, expected) if classifies else None,
        samples=len(split),
        max_abs_error=error,
    )


def _run(session: Session, split: Split, progress: Progress | None) -> list[Array]:
    """Returns the model's outputs over a split, one array per output."""
    blocks = []
    for start in range(0, len(split), _BLOCK):
        block = [array[start : start + _BLOCK] for array in split.inputs]
        blocks.append(run_samples(session, block))
        if progress is not None:
            progress(start + len(block[0]), len(split))
    return [np.concatenate(column) for column in zip(*blocks, strict=True)]


def _check(outputs: Sequence[Array], reference: Sequence[Array]) -> None:
    """Checks that outputs can be compared with the original's."""
    received = [list(output.shape) for output in outputs]
    expected = [list(output.shape) for output in reference]
    if received != expected:
        raise ExportError(
            f"the compressed model's outputs have the shapes {received}, the original's {expected}"
        )
    for index, output in enumerate(outputs):
        bad = output.size - np.count_nonzero(np.isfinite(output))
        if bad:
            raise ExportError(
                f"output {index} of the compressed model has {bad} values that are not finite, "
                f"of {output.size}"
            )
