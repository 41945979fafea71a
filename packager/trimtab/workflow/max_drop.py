"""`trimtab compress --max-drop`: the most frugal form of a model within a budget of accuracy.

A part of the training samples is held back to choose on. Each candidate (`compress.frugal`) is
made from the rest, written for each target, run in its real runtime on that part, and judged by
the drop of the task's own figure: its mean over folds, plus one standard error. The test samples
take no part in the choice. They are for the report on what was chosen.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from trimtab.compress.frugal import FLOAT, Candidate, Goal, candidates
from trimtab.compress.validation import Validation
from trimtab.errors import DataError, ModelError
from trimtab.evaluate.data import Dataset, hold_out
from trimtab.graph.timing import interleaved_us
from trimtab.package.wire import wire_bytes
from trimtab.targets import Exported, export
from trimtab.workflow.compress import Compressor
from trimtab.workflow.frugal_trials import Choice, Search, Trial, cost, describe, why_stopped
from trimtab.workflow.job import Job, Outcome
from trimtab.workflow.write import GATE_SAMPLES, Applied
from trimtab_agent import runtimes
from trimtab_agent.contract.manifest import RuntimeName
from trimtab_agent.errors import (
    PackageError,
    RuntimeUnavailableError,
    TrimtabError,
)

_MOST_SAMPLES = 2000
_FOLDS = 8


def compress_within(
    job: Job, *, max_drop: float, goal: Goal, log: Callable[[str], None]
) -> tuple[Search, Outcome]:
    """Finds and writes the most frugal file for each target.

    Args:
        job: What to compress, and where to. Its recipe has no steps: the search finds them.
        max_drop: By how much the task's figure may fall, as a share.
        goal: What is to become least: bytes on the wire, or this machine's time.
        log: Takes lines that say how far things are.

    Returns:
        How they were found, and what was written. Interrupted, the best found until then.

    Raises:
        DataError: There is no data, so that nobody could say what is lost.
        TrimtabError: What the first target raises if none takes the model.
        KeyboardInterrupt: Before there was anything, or while the best was being written.
    """
    if job.source.dataset is None:
        raise DataError(
            "--max-drop: accuracy cannot be checked without data; give a data file with --data "
            "(labels are not needed)"
        )
    choosing = _held_back(job.source.dataset, job.seed)
    log(
        f"choosing on {len(choosing.test)} training samples that are held back; the test samples "
        "are for the report only"
    )
    with tempfile.TemporaryDirectory(prefix="trimtab-") as scratch:
        tried = _Trials(job, choosing, max_drop, goal, Path(scratch), log)
        interrupted = tried.run()
        tried.time_all()
        outcome, choices = _write(job, tried, log)
    search = Search(
        max_drop=max_drop,
        goal=goal,
        held_back=len(choosing.test),
        trials=tuple(each.trial for each in tried.done),
        choices=choices,
    )
    return search, replace(outcome, interrupted=interrupted)


def _held_back(dataset: Dataset, seed: int) -> Dataset:
    """Returns the training samples alone, in a part to work with and one to choose on."""
    train, test = hold_out(dataset.train)
    order = np.random.default_rng(seed).permutation(len(test))
    return replace(dataset, train=train, test=test.subset(np.sort(order[:_MOST_SAMPLES])))


@dataclass
class _Tried:
    """A trial with what it takes to write its file again."""

    trial: Trial
    applied: Applied | None = None
    exported: Exported | None = None


@dataclass
class _Trials:
    """Makes candidates one after another, and judges each one's file for each target.

    Attributes:
        job: What to compress.
        choosing: Samples to work with as its training samples, those held back as its test ones.
        max_drop: The budget.
        goal: What is to become least.
        scratch: Where files go.
        log: Takes lines.
        done: What was tried.
    """

    job: Job
    choosing: Dataset
    max_drop: float
    goal: Goal
    scratch: Path
    log: Callable[[str], None]
    done: list[_Tried] = field(default_factory=list)

    def run(self) -> bool:
        """Tries all candidates; returns whether Ctrl-C ended that, with something found.

        Raises:
            KeyboardInterrupt: Nothing was found yet.
        """
        source = replace(self.job.source, dataset=self.choosing)
        compressor = Compressor(source, self.job.profile, seed=self.job.seed, log=self.log)
        held_back = replace(self.choosing, train=self.choosing.test)
        validation = Validation(
            source.model,
            held_back,
            samples=len(held_back.train),
            folds=_FOLDS,
            seed=self.job.seed,
        )
        ladder = candidates(source.model, self.job.profile, max_drop=self.max_drop, goal=self.goal)
        try:
            for candidate in ladder:
                if candidate.unless is None or not self._within_everywhere(candidate.unless):
                    self._try(candidate, compressor, validation)
        except KeyboardInterrupt:
            if not any(each.exported for each in self.done):
                raise
            self.log("interrupted: writing the best found; Ctrl-C again stops at once")
            return True
        return False

    def ranked(self, target: RuntimeName) -> list[_Tried]:
        """Returns what may be written for a target, the best first: float is always the last.

        Float keeps every budget, whatever chance says of it on a few samples.
        """
        own = [each for each in self.done if each.trial.target == target and each.exported]
        small = [
            each for each in own if each.trial.verdict == "within" and each.trial.candidate != FLOAT
        ]
        plain = [each for each in own if each.trial.candidate == FLOAT]
        key = partial(cost, goal=self.goal)
        less = [each for each in small if not plain or key(each.trial) < key(plain[0].trial)]
        return [*sorted(less, key=lambda each: key(each.trial)), *plain]

    def time_all(self) -> None:
        """Times the files of each target in turn."""
        for target in self.job.targets:
            own = [each for each in self.done if each.trial.target == target]
            loaded = [(each, self._load(each.exported)) for each in own if each.exported]
            sample = [np.asarray(column[:1]) for column in self.choosing.test.columns]
            runs = [partial(runtimes.run_samples, session, sample) for _, session in loaded]
            times_us = interleaved_us(runs, threads=self.job.profile.threads)
            for (each, _), us in zip(loaded, times_us, strict=True):
                each.trial = msgspec.structs.replace(each.trial, latency_us=us)

    def _within_everywhere(self, name: str) -> bool:
        verdicts = [each.trial.verdict for each in self.done if each.trial.candidate == name]
        return all(verdict == "within" for verdict in verdicts)

    def _try(self, candidate: Candidate, compressor: Compressor, validation: Validation) -> None:
        self.log(f"trying {candidate.name}")
        applied = None
        for target in self.job.targets:
            tried = _Tried(Trial(candidate=candidate.name, target=target, verdict="refused"))
            try:
                applied = applied or compressor.apply(candidate.recipe)
                self._judge(tried, applied, validation)
            except (ModelError, PackageError, RuntimeUnavailableError) as error:
                tried.trial = msgspec.structs.replace(tried.trial, reason=str(error))
            self.done.append(tried)
            self.log(f"{candidate.name} for {target}: {describe(tried.trial)}")

    def _judge(self, tried: _Tried, applied: Applied, validation: Validation) -> None:
        """Writes a file and measures it in its runtime."""
        name, target = tried.trial.candidate, tried.trial.target
        exported = export(
            applied.model,
            target,
            self.scratch / name / target,
            samples=tuple(array[:GATE_SAMPLES] for array in validation.inputs),
            sized=True,
        )
        outputs = runtimes.run_samples(self._load(exported), list(validation.inputs))
        drop = validation.drop_of(outputs)
        tried.applied, tried.exported = applied, exported
        tried.trial = msgspec.structs.replace(
            tried.trial,
            verdict="within" if drop <= self.max_drop else "over",
            wire_bytes=wire_bytes(exported.files),
            file_bytes=exported.file_bytes,
            drop=drop,
        )

    def _load(self, exported: Exported) -> runtimes.Session:
        return runtimes.load(
            exported.target,
            exported.path,
            threads=self.job.profile.threads,
            options=exported.options,
        )


def _write(
    job: Job, tried: _Trials, log: Callable[[str], None]
) -> tuple[Outcome, tuple[Choice, ...]]:
    """Writes the best for each target, evaluated on the test samples."""
    writer = Compressor(job.source, job.profile, seed=job.seed, log=log, compare_speed=True)
    results, choices, refused = [], [], dict[RuntimeName, TrimtabError]()
    for target in job.targets:
        for best in tried.ranked(target):
            assert best.applied is not None, "what is ranked has a file"
            recipe = replace(best.applied.recipe, constraints=job.recipe.constraints)
            applied = replace(best.applied, recipe=recipe)
            log(f"writing {best.trial.candidate} for {target}")
            try:
                results.append(writer.write(applied, target, job.output / target))
            except (ModelError, PackageError, RuntimeUnavailableError) as error:
                refused[target] = error  # the next best may well pass
                continue
            refused.pop(target, None)
            own = [each.trial for each in tried.done if each.trial.target == target]
            stopped = why_stopped(best.trial, own, tried.goal)
            choices.append(Choice(target=target, candidate=best.trial.candidate, stopped=stopped))
            break
        else:
            refused.setdefault(target, _no_file(target, tried))
    if refused and not results:
        raise next(iter(refused.values()))
    return Outcome(tuple(results), refused, interrupted=False), tuple(choices)


def _no_file(target: RuntimeName, tried: _Trials) -> TrimtabError:
    reasons = [each.trial.reason for each in tried.done if each.trial.target == target]
    return ModelError(f"no form of the model can be written for {target}: {reasons[0]}")
