"""The outcome of a search as one value: what the table, the HTML report and the JSON all show.

Pure. `build_summary` decides what is said; the others only lay it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from trimtab.evaluate.harm import describe
from trimtab.evaluate.intervals import wilson_interval
from trimtab.search.candidates import Precision
from trimtab.search.loop import SearchResult, StoppedBy
from trimtab.search.trial import Trial
from trimtab.search.units import ITEM_NAMES, show_item
from trimtab.search.verdict import Item, Verdict, accuracy_drop, verdict
from trimtab_agent.contract.manifest import Budget, Counts, Evaluation, RuntimeName, Sizes
from trimtab_agent.contract.measurement import Energy
from trimtab_agent.contract.messages import GoldenCheck, Inventory


class About(msgspec.Struct, kw_only=True, frozen=True):
    """What was searched, as the caller knows it.

    Attributes:
        model: File name of the original model.
        profile: Id of the hardware profile.
        device: Name of the device.
        seed: Seed of everything random.
        created: UTC, RFC 3339.
        tools: Versions of what made the packages, by name.
    """

    model: str
    profile: str
    device: str
    seed: int
    created: str
    tools: dict[str, str]


class Timing(msgspec.Struct, kw_only=True, frozen=True):
    """Latency as measured, in microseconds. The raw times stay in the search's file."""

    runtime_version: str
    provider: str | None
    threads: int
    runs: int
    p50_us: float
    p50_interval_us: tuple[float, float] | None
    p95_us: float | None
    p95_interval_us: tuple[float, float] | None
    first_us: float
    load_us: float
    steady: bool


class Row(msgspec.Struct, kw_only=True, frozen=True):
    """One trial. Absent figures are None.

    Attributes:
        id: The candidate.
        target: Its runtime.
        precision: What it calculates in.
        recipe: Its steps.
        chosen: Whether it is the best.
        counts: Multiply-accumulates and parameters.
        sizes: Wire, file and weight bytes.
        peak_memory_bytes: Largest resident set of the process that ran it: the fourth size.
        model_memory_bytes: What the model added to the interpreter and runtime.
        evaluation: On the host, in the candidate's real runtime.
        accuracy_interval: 95 % interval of the accuracy.
        accuracy_drop: Loss against the original, as a share, negative for a gain.
        latency: On the device.
        energy: On the device, level `none` where it has no sensor.
        golden: The check of golden samples on the device.
        outcome: The verdict.
        over: The budget items that are over their limits.
        without: The budget items that have no figure.
        reasons: Why, in words: each miss, each thing unproven, or the failure.
        compress_s: Seconds it took to build.
    """

    id: str
    target: RuntimeName
    precision: Precision
    recipe: tuple[dict[str, Any], ...]
    chosen: bool
    counts: Counts | None
    sizes: Sizes | None
    peak_memory_bytes: int | None
    model_memory_bytes: int | None
    evaluation: Evaluation | None
    accuracy_interval: tuple[float, float] | None
    accuracy_drop: float | None
    latency: Timing | None
    energy: Energy | None
    golden: GoldenCheck | None
    outcome: Literal["met", "unproven", "missed", "failed"]
    over: tuple[Item, ...]
    without: tuple[Item, ...]
    reasons: tuple[str, ...]
    compress_s: float | None


class Summary(msgspec.Struct, kw_only=True, frozen=True):
    """The outcome of a search.

    Attributes:
        about: What was searched.
        budget: What was to be kept.
        stopped_by: Why the search ended.
        conclusion: The outcome in a few short sentences.
        rows: Every trial, in the order in which they were done.
        inventory: What the device said of itself, if it did.
        unchecked: What this search does not show, in sentences.
    """

    about: About
    budget: Budget
    stopped_by: StoppedBy
    conclusion: str
    rows: tuple[Row, ...]
    inventory: Inventory | None
    unchecked: tuple[str, ...]


def build_summary(result: SearchResult, budget: Budget, about: About) -> Summary:
    """Returns the outcome of a search, judged by `budget`."""
    best_id = None if result.best is None else result.best.candidate.id
    rows = tuple(
        _row(trial, verdict(trial, budget), trial.candidate.id == best_id)
        for trial in result.trials
    )
    inventories = [
        trial.measured.inventory
        for trial in result.trials
        if trial.measured is not None and trial.measured.inventory is not None
    ]
    return Summary(
        about=about,
        budget=budget,
        stopped_by=result.stopped_by,
        conclusion=_conclusion(rows, result),
        rows=rows,
        inventory=inventories[-1] if inventories else None,
        unchecked=tuple(_unchecked(rows, result.trials)),
    )


def _row(trial: Trial, judged: Verdict, chosen: bool) -> Row:  # noqa: FBT001 - private
    """Returns the row of one trial."""
    built, measurement, evaluation = trial.built, trial.measurement, trial.evaluation
    memory = None if measurement is None else measurement.memory
    labelled = evaluation is not None and evaluation.value is not None
    return Row(
        id=trial.candidate.id,
        target=trial.candidate.target,
        precision=trial.candidate.precision,
        recipe=trial.candidate.recipe,
        chosen=chosen,
        counts=None if built is None else built.counts,
        sizes=None if built is None else built.sizes,
        peak_memory_bytes=None if memory is None else memory.peak_rss_bytes,
        model_memory_bytes=None if memory is None else memory.model_peak_bytes,
        evaluation=evaluation,
        accuracy_interval=_interval(evaluation) if labelled else None,
        accuracy_drop=accuracy_drop(evaluation),
        latency=_timing(trial),
        energy=None if measurement is None else measurement.energy,
        golden=None if trial.measured is None else trial.measured.golden,
        outcome=judged.outcome,
        over=tuple(miss.item for miss in judged.misses),
        without=tuple(item.item for item in judged.unproven),
        reasons=tuple(_reasons(trial, judged)),
        compress_s=trial.compress_s,
    )


def _interval(evaluation: Evaluation | None) -> tuple[float, float] | None:
    if evaluation is None or evaluation.value is None:
        return None
    if evaluation.task is None:  # by an older version, which knew shares of samples only
        return wilson_interval(evaluation.value, evaluation.samples)
    return evaluation.interval


def _timing(trial: Trial) -> Timing | None:
    """Returns a trial's latency without the raw times."""
    measurement = trial.measurement
    if measurement is None:
        return None
    latency = measurement.latency
    return Timing(
        runtime_version=measurement.runtime_version,
        provider=measurement.provider,
        threads=latency.threads,
        runs=latency.count,
        p50_us=latency.p50_us,
        p50_interval_us=latency.p50_interval_us,
        p95_us=latency.p95_us,
        p95_interval_us=latency.p95_interval_us,
        first_us=latency.first_us,
        load_us=latency.load_us,
        steady=latency.steady,
    )


def _reasons(trial: Trial, judged: Verdict) -> Iterator[str]:
    """Yields why the verdict is what it is."""
    if trial.failure is not None:
        place = "on the host" if trial.failure.stage == "build" else "on the device"
        yield f"failed {place} ({trial.failure.reason}): {trial.failure.message}"
    for miss in judged.misses:
        value, limit = show_item(miss.item, miss.value), show_item(miss.item, miss.limit)
        yield f"{ITEM_NAMES[miss.item]}: {value}, limit {limit}"
    for effect in (trial.evaluation and trial.evaluation.harmed) or ():
        yield f"loses more than elsewhere on {describe(effect)}"
    for unproven in judged.unproven:
        yield f"{ITEM_NAMES[unproven.item]}: unproven, {unproven.why}"


def _conclusion(rows: Sequence[Row], result: SearchResult) -> str:
    """Returns the outcome in a few short sentences."""
    tried = f"{len(rows)} candidate{'' if len(rows) == 1 else 's'} tried"
    if result.ruled_out:
        tried += f", {result.ruled_out} ruled out untried by what these measured"
    chosen = next((row for row in rows if row.chosen), None)
    stop = f"Stopped: {result.stopped_by}, {tried}."
    if chosen is None:
        return f"{stop} No candidate gave a working package."
    if chosen.outcome == "met":
        return f"{stop} {chosen.id} keeps the whole budget, as measured on the device."
    said = "; ".join(chosen.reasons)
    if chosen.outcome == "unproven":
        return f"{stop} {chosen.id} misses nothing that was measured, but is not proven: {said}."
    return f"{stop} No candidate keeps the budget. {chosen.id} comes nearest: {said}."


def _unchecked(rows: Sequence[Row], trials: Sequence[Trial]) -> Iterator[str]:
    """Yields what the reader must not take from the figures."""
    measured = [row for row in rows if row.latency is not None]
    evaluated = [row.evaluation for row in rows if row.evaluation is not None]
    if not measured:
        yield "Nothing was measured on a device."
    for reason in sorted({_why_no_energy(row.energy) for row in measured} - {""}):
        yield f"Energy was not measured: {reason}."
    if not evaluated:
        yield "Accuracy was not checked: there was no data."
    elif any(evaluation.value is None for evaluation in evaluated):
        yield "There were no labels: agreement with the original stands in for accuracy."
    else:
        yield (
            "The test samples that give the accuracies also decided between the candidates. "
            "Expect a little less on new samples."
        )
    by_chance = [row.id for row in rows if row.evaluation and _may_be_chance(row.evaluation)]
    if by_chance:
        yield (
            f"These differ from the original by no more than chance may explain: "
            f"{', '.join(by_chance)}."
        )
    if unsteady := [row.id for row in measured if row.latency and not row.latency.steady]:
        yield f"Latency had not settled when measuring ended: {', '.join(unsteady)}."
    if throttled := [
        trial.candidate.id
        for trial in trials
        if trial.measurement and trial.measurement.environment.throttled
    ]:
        yield f"The device slowed itself down while measuring: {', '.join(throttled)}."
    if busy := [trial.candidate.id for trial in trials if _busy(trial)]:
        yield f"The device was busy with other work while measuring: {', '.join(busy)}."


def _may_be_chance(evaluation: Evaluation) -> bool:
    """Says whether a paired test leaves it open that anything has changed."""
    return evaluation.p_value is not None and evaluation.p_value > 0.05


def _why_no_energy(energy: Energy | None) -> str:
    """Returns why there is no energy figure; empty if there is one."""
    if energy is None or energy.level != "none":
        return ""
    return energy.reason or "the device gave no reason"


def _busy(trial: Trial) -> bool:
    """Says whether more ran on the device than it has cores, before the measurement began."""
    if trial.measured is None or trial.measurement is None or trial.measured.inventory is None:
        return False
    load = trial.measurement.environment.load_average
    return load is not None and load > trial.measured.inventory.cores
