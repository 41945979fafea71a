"""How good a model is, alone or against the original: run batch by batch, then compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ExportError
from trimtab.evaluate import harm, metrics
from trimtab.evaluate.assessment import Assessment
from trimtab.evaluate.data import Dataset
from trimtab.evaluate.intervals import (
    DRAWS,
    bootstrap,
    paired_share_interval,
    percentile_interval,
    wilson_interval,
)
from trimtab.evaluate.significance import bootstrap_p_value, mcnemar
from trimtab.evaluate.tasks import Batch, Evidence, Measure, Task, make_task
from trimtab.evaluate.tasks.custom import Custom
from trimtab_agent.contract.manifest import Effect, Figure

Array = NDArray[Any]
Run = Callable[[Sequence[Array]], list[Array]]
"""Runs a model on samples: one array per input in, one per output out, samples first."""
Progress = Callable[[int, int], None]
"""Called with the samples done and the samples in all."""

_BLOCK = 64  # samples between two calls of `progress`: a few a second even on slow models
_CUSTOM_DRAWS = 199
"""A user's function may take its time."""


def assess(
    run: Run,
    dataset: Dataset,
    reference: Sequence[Array] | None,
    task_name: str,
    *,
    progress: Progress | None = None,
) -> Assessment:
    """Runs a model over the test samples and compares it with the original.

    Inputs are read a block at a time; of the outputs, the task keeps what it needs.

    Args:
        run: The model, in the runtime that it was exported for.
        dataset: `check_fits` has passed it.
        reference: The original's outputs on the same samples, one array per output; None to look
            at the model alone.
        task_name: What the model does, and what labels are for.
        progress: Told about every block of samples.

    Returns:
        The figures. Without labels, agreement with the original is all there is.

    Raises:
        ExportError: The outputs have other shapes than the original's, or are not finite.
        CallerError: The samples do not fit the model, or the user's function fails.
        DeviceError: The runtime failed.
    """
    blocks = _run(run, dataset, reference, progress)
    first = next(blocks)
    task = make_task(task_name, dataset.test.labels, (first[1] or first[0]).outputs[0])
    mine, its, errors = [], [], []
    for batch, original in itertools.chain([first], blocks):
        mine.append(task.observe(batch))
        if original is not None:
            its.append(task.observe(original))
            pairs = zip(batch.outputs, original.outputs, strict=True)
            errors += [metrics.max_abs_error(one, other) for one, other in pairs]
    evidence = _join(mine)
    return _assess(task, dataset, evidence, _join(its) if its else None, max(errors, default=None))


def _assess(
    task: Task,
    dataset: Dataset,
    evidence: Evidence,
    original: Evidence | None,
    max_abs_error: float | None,
) -> Assessment:
    """Puts the figures together once everything has been run."""
    agreement = None
    if original is not None:
        shared = task.agree(evidence, original)
        (agreement,) = _figures((task.agreement,), shared, None)
        if task.name == "embeddings":  # the original is the truth, and agrees with itself
            evidence, original = shared, task.agree(original, original)
    measures = task.measures(evidence)
    return Assessment(
        task=task.name,
        samples=len(dataset.test),
        figures=_figures(measures, evidence, original, _draws(task)),
        agreement=agreement,
        max_abs_error=max_abs_error,
        effects=None if original is None else _effects(task, dataset, evidence, original),
    )


def _figures(
    measures: Sequence[Measure],
    evidence: Evidence,
    original: Evidence | None,
    draws: int = DRAWS,
) -> tuple[Figure, ...]:
    """Returns figures with what is known of their certainty."""
    drawn = [measure for measure in measures if measure.outcome is None and measure.smooth]
    resampled = iter(_resampled(drawn, evidence, original, draws) if drawn else ())
    return tuple(
        next(resampled)
        if measure in drawn
        else _exact(measure, evidence, original)
        if measure.outcome
        else _bare(measure, evidence, original)
        for measure in measures
    )


def _exact(measure: Measure, evidence: Evidence, original: Evidence | None) -> Figure:
    """A share of samples: Wilson, Newcombe, McNemar."""
    assert measure.outcome is not None
    right = evidence[measure.outcome]
    value, n = float(right.mean()), len(right)
    if original is None:
        return Figure(name=measure.name, value=value, interval=wilson_interval(value, n))
    other = original[measure.outcome]
    reference = float(other.mean())
    return Figure(
        name=measure.name,
        value=value,
        interval=wilson_interval(value, n),
        reference=reference,
        reference_interval=wilson_interval(reference, n),
        change_interval=paired_share_interval(right, other),
        p_value=mcnemar(right, other),
        test="mcnemar",
        larger_is_better=measure.larger_is_better,
    )


def _resampled(
    measures: Sequence[Measure], evidence: Evidence, original: Evidence | None, draws: int
) -> Iterator[Figure]:
    """Anything else that changes smoothly: the bootstrap, the same for all and for both models."""
    models = [evidence] if original is None else [evidence, original]
    samples = len(next(iter(evidence.values())))
    statistics = [partial(m.statistic, model) for m in measures for model in models]
    rows = bootstrap(statistics, samples, draws=draws).reshape(len(measures), len(models), draws)
    for measure, values in zip(measures, rows, strict=True):
        interval = percentile_interval(values[0], samples)
        figure = msgspec.structs.replace(_bare(measure, evidence, original), interval=interval)
        if original is not None:
            change = values[0] - values[1]
            figure = msgspec.structs.replace(
                figure,
                reference_interval=percentile_interval(values[1], samples),
                change_interval=percentile_interval(change, samples),
                p_value=bootstrap_p_value(change),
                test="paired_bootstrap",
            )
        yield figure


def _bare(measure: Measure, evidence: Evidence, original: Evidence | None) -> Figure:
    return Figure(
        name=measure.name,
        value=measure.value(evidence),
        reference=None if original is None else measure.value(original),
        larger_is_better=measure.larger_is_better,
    )


def _effects(
    task: Task, dataset: Dataset, evidence: Evidence, original: Evidence
) -> tuple[Effect, ...] | None:
    """Returns what became of classes and groups, if there are any."""
    split, column, measure = dataset.test, task.part_column, task.part_measure
    if measure is None or column not in evidence:
        return None
    names = dataset.class_names

    def class_name(number: int) -> str:
        return names[number] if names and number < len(names) else str(number)

    found: list[Effect] = []
    compare = partial(
        harm.effects, value=evidence[column], reference=original[column], measure=measure
    )
    if task.has_classes and split.labels is not None:
        found += compare("class", split.labels, name_of=class_name)
    if split.groups is not None:
        found += compare("group", split.groups)
    return tuple(found) if found else None


def _run(
    run: Run, dataset: Dataset, reference: Sequence[Array] | None, progress: Progress | None
) -> Iterator[tuple[Batch, Batch | None]]:
    """Yields what the model and the original say to the test samples, checked."""
    split, start = dataset.test, 0
    for inputs in split.batches(_BLOCK):
        stop = start + len(inputs[0])
        outputs = run(inputs)
        expected = None if reference is None else [array[start:stop] for array in reference]
        _check(outputs, expected)
        labels = None if split.labels is None else split.labels[start:stop]
        batch = Batch(inputs=inputs, outputs=outputs, labels=labels)
        yield batch, None if expected is None else replace(batch, outputs=expected)
        start = stop
        if progress is not None:
            progress(stop, len(split))


def _check(outputs: Sequence[Array], reference: Sequence[Array] | None) -> None:
    """Checks that outputs are numbers that can be compared with the original's."""
    if reference is not None:
        received = [list(output.shape[1:]) for output in outputs]
        expected = [list(output.shape[1:]) for output in reference]
        if received != expected:
            raise ExportError(
                f"the compressed model's outputs have the shapes {received} per sample, "
                f"the original's {expected}"
            )
    for index, output in enumerate(outputs):
        bad = output.size - np.count_nonzero(np.isfinite(output))
        if bad:
            raise ExportError(
                f"output {index} of the model has {bad} values that are not finite, "
                f"of {output.size}"
            )


def _join(parts: Sequence[Evidence]) -> Evidence:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _draws(task: Task) -> int:
    return _CUSTOM_DRAWS if isinstance(task, Custom) else DRAWS
