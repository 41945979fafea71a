"""The search loop: propose, build, measure, judge, until the budget is met or nothing is left.

What it stands between are two ports: a `Builder` that compresses and packages a candidate on the
host, and a `Device` that runs the package and says what it measured. Each trial is on disk before
the next begins, and a package that was built but not measured is not built again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from trimtab.errors import DeviceTimeoutError, ModelError
from trimtab.search.best import best
from trimtab.search.candidates import Candidate
from trimtab.search.hopeless import hopeless
from trimtab.search.propose import propose
from trimtab.search.state import Pending, SearchState, load_state, save_state
from trimtab.search.trial import Built, Measured, Trial, TrialFailure
from trimtab.search.verdict import Verdict, verdict
from trimtab_agent.contract.manifest import Budget
from trimtab_agent.errors import DeviceError, PackageError, StorageError, TrimtabError

StoppedBy = Literal["budget met", "budget unproven", "candidates spent", "interrupted"]
"""Why a search ended. `budget unproven`: a trial misses nothing, and what it leaves unproven
cannot be measured of any other candidate on this device either. `candidates spent`: each was
tried, is for a runtime that the device lacks, or was ruled out untried by what others measured
(`hopeless`)."""


class Builder(Protocol):
    """The host's side of a trial."""

    def build(self, candidate: Candidate) -> Built:
        """Compresses, exports, evaluates and packages a candidate.

        Raises:
            TrimtabError: It cannot be built. A `PackageError`, a `DeviceError` or a
                `ModelError` is the candidate's own fault; any other ends the search.
        """
        ...


class Device(Protocol):
    """The device's side of a trial."""

    def measure(self, candidate: Candidate, built: Built) -> Measured:
        """Has the package installed, checked and measured, and returns what the device said.

        A package that the device refuses or cannot run is no error: it is a `Measured` with a
        `failure`.

        Raises:
            TrimtabError: The device could not be asked. This ends the search.
        """
        ...


class Listener:
    """Told what the search does, for progress. Does nothing; override what is of interest."""

    def building(self, candidate: Candidate) -> None:
        """A candidate was chosen and is now built."""

    def measuring(self, candidate: Candidate, built: Built) -> None:
        """It is built and goes to the device."""

    def done(self, trial: Trial, judged: Verdict) -> None:
        """The trial is over and on disk."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search came to.

    Attributes:
        trials: All of them, those of earlier runs included, in order.
        best: The best of them (see `best.best`); None if no package worked.
        ruled_out: How many candidates were not tried because the trials show that they miss the
            budget (see `hopeless.hopeless`).
        stopped_by: Why it ended.
    """

    trials: tuple[Trial, ...]
    best: Trial | None
    ruled_out: int
    stopped_by: StoppedBy


def search(
    candidates: Sequence[Candidate],
    budget: Budget,
    *,
    builder: Builder,
    device: Device,
    path: Path,
    subject: Mapping[str, str],
    listener: Listener | None = None,
) -> SearchResult:
    """Searches until the budget is met, the candidates are spent, or Ctrl-C.

    Args:
        candidates: What may be tried, in order of preference; ids are unique.
        budget: What to keep.
        builder: Makes packages.
        device: Measures them.
        path: The search's file. If it is there, the search goes on from it.
        subject: What must be the same for that (see `SearchState.subject`).
        listener: Told what happens.

    Raises:
        TrimtabError: Something ended the search that is no fault of a candidate, such as a
            broker that is gone. Everything done so far is in the file.
    """
    run = _Run(builder, device, path, listener or Listener(), load_state(path, subject))
    try:
        stopped_by = run.until_done(candidates, budget)
    except KeyboardInterrupt:
        stopped_by = "interrupted"
    trials = run.state.trials
    return SearchResult(
        trials=trials,
        best=best(trials, budget),
        ruled_out=len(hopeless(candidates, trials, budget)),
        stopped_by=stopped_by,
    )


class _Run:
    """One run of a search, and its state, which is always what is on disk."""

    def __init__(
        self, builder: Builder, device: Device, path: Path, listener: Listener, state: SearchState
    ) -> None:
        self.state = state
        self._builder = builder
        self._device = device
        self._path = path
        self._listener = listener

    def until_done(self, candidates: Sequence[Candidate], budget: Budget) -> StoppedBy:
        """Tries candidates until there is a reason to stop."""
        while True:
            judged = [verdict(trial, budget) for trial in self.state.trials]
            if any(one.met for one in judged):
                return "budget met"
            if any(one.as_good_as_possible for one in judged):
                return "budget unproven"
            candidate = self._next(candidates, budget)
            if candidate is None:
                return "candidates spent"
            trial = self._try(candidate)
            self._save(trials=(*self.state.trials, trial), pending=None)
            self._listener.done(trial, verdict(trial, budget))

    def _next(self, candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
        """Returns the candidate that an earlier run has built, or else the proposer's choice."""
        left = self._left_over()
        for candidate in candidates:
            if left is not None and candidate.id == left.candidate:
                return candidate
        return propose(candidates, self.state.trials, budget)

    def _try(self, candidate: Candidate) -> Trial:
        """Builds and measures a candidate."""
        pending = self._built(candidate)
        if isinstance(pending, TrialFailure):
            return Trial(
                candidate=candidate, built=None, measured=None, failure=pending, compress_s=None
            )
        self._listener.measuring(candidate, pending.built)
        measured = self._device.measure(candidate, pending.built)
        return Trial(
            candidate=candidate,
            built=pending.built,
            measured=measured,
            failure=measured.failure,
            compress_s=pending.compress_s,
        )

    def _built(self, candidate: Candidate) -> Pending | TrialFailure:
        """Returns the candidate's package, built now unless an earlier run has left it."""
        left = self._left_over()
        if left is not None and left.candidate == candidate.id:
            return left
        self._listener.building(candidate)
        started = time.monotonic()
        try:
            built = self._builder.build(candidate)
        except TrimtabError as error:
            if not _is_the_candidates_fault(error):
                raise
            return TrialFailure(stage="build", reason=error.reason, message=str(error))
        pending = Pending(
            candidate=candidate.id, built=built, compress_s=time.monotonic() - started
        )
        self._save(trials=self.state.trials, pending=pending)
        return pending

    def _left_over(self) -> Pending | None:
        """Returns what was built but not measured, if its package is still there."""
        pending = self.state.pending
        if pending is None or not Path(pending.built.package).is_file():
            return None
        return pending

    def _save(self, *, trials: tuple[Trial, ...], pending: Pending | None) -> None:
        state = SearchState(subject=self.state.subject, trials=trials, pending=pending)
        save_state(self._path, state)
        self.state = state


def _is_the_candidates_fault(error: TrimtabError) -> bool:
    """Says whether another candidate may do better, so that the search goes on.

    The original was loaded before the search began. So a `ModelError` here is from a technique
    that has no use for this model, such as pruning where no channel can go.
    """
    if isinstance(error, StorageError | DeviceTimeoutError):
        return False
    return isinstance(error, PackageError | DeviceError | ModelError)
