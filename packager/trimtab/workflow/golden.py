"""Which test samples travel with a package, and what a device must reach on them.

They are drawn by seed and labels alone, whatever the model answers. So the figure on them is a fair
one, and two versions of a package carry the same inputs, whose chunks a device has already.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.evaluate.data import Dataset
from trimtab.evaluate.tasks.choose import make_task
from trimtab.evaluate.tasks.classification import Classification
from trimtab.package.golden import GoldenSamples
from trimtab.workflow.source import Source
from trimtab_agent import runtimes
from trimtab_agent.bench.task_metric import PADDING, score
from trimtab_agent.contract.manifest import GoldenTask, TaskMetric

Array = NDArray[Any]

_LEAST = 2
_MOST = 16
_MOST_LABELLED = 128
_WIRE_SHARE = 0.1
_SMALL_WIRE_SHARE = 0.25
_SMALL_WIRE_BYTES = 4 * 1024
_RAW_BYTES = 4 * 1024**2
"""Samples travel with the model, and lie in the memory of the process that checks them. On the wire
they may take a tenth of the model's bytes; up to 4 KiB, a quarter. Unpacked, 4 MiB or a tenth."""

_PROBED = 4
"""Samples whose packed size stands for that of all."""

_LEAST_FOR_A_TASK = 8
_ALLOWED_SHARE = 0.05
_ALLOWED_ANSWERS = 3
"""Kernels of another processor round otherwise, and answers that were nearly a tie fall the other
way. If that costs 1 right answer in 200, fewer than 1 package in 1,000 loses more than this share
and more than so many answers (binomial, any number of samples up to 128)."""

_METRICS: dict[str, TaskMetric] = {
    "classification": "top1",
    "tokens": "token_accuracy",
    "regression": "rmse",
}


def golden_samples(
    source: Source,
    session: runtimes.Session,
    *,
    file_bytes: int,
    relative_limit: float,
    seed: int,
) -> GoldenSamples:
    """Takes some test samples, and what the exported file answers to them.

    Args:
        source: The data, or noise where there is none.
        session: The exported file.
        file_bytes: Its size.
        relative_limit: How far a device's outputs may be off, as a share of the largest.
        seed: The same seed draws the same samples.
    """
    order = sample_order(source, seed)
    chosen = order[: _count(source, session, order, file_bytes)]
    inputs = [np.asarray(column[chosen]) for column in source.samples]
    outputs = runtimes.run_samples(session, inputs)
    largest = max(float(np.abs(array).max()) for array in outputs)
    limit = relative_limit * largest
    labels = None if source.dataset is None else source.dataset.test.labels
    task = None
    if labels is not None and source.dataset is not None:
        task = _task(source.dataset, outputs[0], labels[chosen], limit)
    return GoldenSamples(
        inputs=inputs,
        outputs=outputs,
        max_abs_error=limit,
        labels=None if task is None or labels is None else labels[chosen],
        task=task,
    )


def sample_order(source: Source, seed: int) -> NDArray[np.int64]:
    """Returns the numbers of all samples; golden ones are taken from the front.

    Of a classifier every class comes once before any comes again, and so on, as long as it has
    samples; which of a class is chance. Other samples are in an order of chance.
    """
    count = len(source.samples[0])
    order = np.random.default_rng(seed).permutation(count)
    dataset = source.dataset
    if dataset is None or dataset.task != "classification" or dataset.test.labels is None:
        return order
    labels = dataset.test.labels[order]
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    turn = np.arange(count) - starts  # how many of its class come before
    return order[by_class[np.argsort(turn, kind="stable")]]


def _count(
    source: Source, session: runtimes.Session, order: NDArray[np.int64], file_bytes: int
) -> int:
    """Returns how many samples fit."""
    probe = order[:_PROBED]
    inputs = [np.asarray(column[probe]) for column in source.samples]
    arrays = [*inputs, *runtimes.run_samples(session, inputs)]
    raw_bytes = sum(array.nbytes for array in arrays) / len(probe)
    wire_bytes = sum(len(zlib.compress(array.tobytes(), 1)) for array in arrays) / len(probe)
    share = int(file_bytes * _WIRE_SHARE)
    fitting = min(
        max(share, min(_SMALL_WIRE_BYTES, file_bytes * _SMALL_WIRE_SHARE)) / wire_bytes,
        max(share, _RAW_BYTES) / raw_bytes,
    )
    labelled = source.dataset is not None and source.dataset.test.labels is not None
    most = _MOST_LABELLED if labelled else _MOST
    return min(len(order), most, max(_LEAST, int(fitting)))


def _task(dataset: Dataset, output: Array, labels: Array, limit: float) -> GoldenTask | None:
    """Returns what a device must reach by the labels; None if it cannot be told from them.

    Args:
        dataset: Says what the labels are for.
        output: What the exported file gave for the samples, the first output.
        labels: Of the samples.
        limit: How far an element may be off: where every label is the same number, the error
            may grow by as much.
    """
    metric = _METRICS.get(dataset.task or "")
    if metric is None or len(labels) < _LEAST_FOR_A_TASK:
        return None
    if metric == "rmse":
        value = score(metric, output, labels, threshold=None)
        spread = float(np.std(labels.astype(np.float64)))
        allowed = _ALLOWED_SHARE * spread if spread else limit
        return GoldenTask(metric=metric, value=value, limit=value + allowed)
    counted = int((labels != PADDING).sum())
    if not counted:
        return None
    threshold = _threshold(dataset, output) if metric == "top1" else None
    value = score(metric, output, labels, threshold=threshold)
    allowed = max(_ALLOWED_SHARE, _ALLOWED_ANSWERS / counted)
    return GoldenTask(
        metric=metric, value=value, limit=max(0.0, value - allowed), threshold=threshold
    )


def _threshold(dataset: Dataset, output: Array) -> float | None:
    """Returns from which on a single score says class 1; None for several scores."""
    if output.size != len(output):
        return None
    task = make_task(dataset.task or "", dataset.test.labels, output)
    return task.threshold if isinstance(task, Classification) else None
