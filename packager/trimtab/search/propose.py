"""The proposer: which candidate to try next, from what was measured so far. Pure.

The policy:

1. Anchors first, on the preferred runtime that the device has: the original, the original in
   int8, and the original pruned to half in float32. The model has a level, a gain from int8 and
   a slope over pruning, and each anchor settles one of them on this device, before anything is
   extrapolated. They also show what each technique does by itself. They are tried even where
   rule 2 excludes them as hopeless, for they are there to teach.
2. What is not tried: a candidate a second time, one for a runtime that the device turned out to
   lack, and one that a trial has shown to miss the budget (`hopeless`).
3. Every remaining candidate's latency, energy, memory, wire size and loss of accuracy are
   predicted from the trials (`model`). What nothing is known of yet is taken to keep its limit.
4. Among the candidates predicted to keep the whole budget, take the one with the smallest
   predicted loss of accuracy, in tenths of a point; among equals the one that leaves most of the
   model, then the one that comes first in the list.
5. If none is predicted to, take the one whose worst predicted excess over a limit is smallest.
   It is the most likely to keep the budget after all, and teaches most about the limit in the
   way.
6. When there is nothing left to try, stop: what is untried then cannot run, or misses. To stop
   before, as soon as a trial meets the budget, anchor or not, is the loop's business.

Accuracy is known on the host before anything is sent, but a candidate that loses too much of it
is still a measurement: what it teaches about latency and size narrows the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.search import model
from trimtab.search.candidates import Candidate, Precision
from trimtab.search.hopeless import hopeless
from trimtab.search.trial import Trial
from trimtab.search.verdict import Item, Miss, largest_drop
from trimtab_agent.contract.manifest import Budget


def propose(
    candidates: Sequence[Candidate], trials: Sequence[Trial], budget: Budget
) -> Candidate | None:
    """Returns the candidate to try next, or None when all others are tried or ruled out.

    Args:
        candidates: All that may be tried, in order of preference.
        trials: What was tried, failures included; their ids are never proposed again.
        budget: What to keep.
    """
    usable = _usable(candidates, trials)
    tried = {trial.candidate.id for trial in trials}
    for anchor in _anchors(usable):
        if anchor.id not in tried:
            return anchor
    excluded = tried | {candidate.id for candidate in hopeless(usable, trials, budget)}
    remaining = [candidate for candidate in usable if candidate.id not in excluded]
    if not remaining:
        return None
    predict = _Predictor(trials)
    return min(remaining, key=lambda candidate: _preference(predict(candidate), candidate, budget))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What is expected of a candidate; None where nothing is known yet. Units as in `Budget`."""

    wire_bytes: float | None
    latency_p95_us: float | None
    peak_memory_bytes: float | None
    energy_mj: float | None
    accuracy_drop: float


class _Predictor:
    """Predictions from a set of trials."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._counts = {
            _pruning(trial.candidate): trial.built.counts for trial in trials if trial.built
        }
        self._fits = {
            item: model.fit_log(prior, self._observations(trials, item))
            for item, prior in _PRIORS.items()
        }
        self._drops = model.DropFit(
            model.ACCURACY_DROP, self._observations(trials, "accuracy_drop")
        )

    def __call__(self, candidate: Candidate) -> Prediction:
        """Returns what is expected of a candidate."""
        return Prediction(
            wire_bytes=self._quantity(candidate, "wire_bytes"),
            latency_p95_us=self._quantity(candidate, "latency_p95_us"),
            peak_memory_bytes=self._quantity(candidate, "peak_memory_bytes"),
            energy_mj=self._quantity(candidate, "energy_mj"),
            accuracy_drop=self._drops.predict(candidate, self._share(candidate, "accuracy_drop")),
        )

    def _quantity(self, candidate: Candidate, item: Item) -> float | None:
        fit = self._fits[item]
        if fit is None:
            return None
        return math.exp(fit.predict(candidate, self._share(candidate, item)))

    def _observations(self, trials: Sequence[Trial], item: Item) -> list[model.Observation]:
        return [
            model.Observation(
                candidate=trial.candidate, share=self._share(trial.candidate, item), value=value
            )
            for trial in trials
            if (value := _FIGURES[item](trial)) is not None
        ]

    def _share(self, candidate: Candidate, item: Item) -> float:
        """Returns what pruning leaves: as counted if it was done before, else as planned.

        The planned share is of multiply-accumulates. Until it is counted, the share of
        parameters is taken to be the same: pruned to 0.479 and 0.291 of the first, ResNet-8 kept
        0.477 and 0.340 of the second.
        """
        counts = self._counts.get(_pruning(candidate))
        if counts is None:
            return candidate.macs_share
        return counts.parameters_share if item in _BY_PARAMETERS else counts.macs_share


def _pruning(candidate: Candidate) -> float:
    """Returns what tells prunings apart; the same pruning gives the same counts everywhere."""
    return candidate.macs_share


def _usable(candidates: Sequence[Candidate], trials: Sequence[Trial]) -> list[Candidate]:
    """Returns the candidates for the runtimes that the device is not known to lack."""
    lacking = {
        trial.candidate.target
        for trial in trials
        if trial.failure is not None and trial.failure.reason == "runtime"
    }
    return [candidate for candidate in candidates if candidate.target not in lacking]


_ANCHORS: tuple[tuple[Precision, float], ...] = (("float32", 1.0), ("int8", 1.0), ("float32", 0.5))
"""One step along each axis of the model, by precision and share left."""


def _anchors(usable: Sequence[Candidate]) -> list[Candidate]:
    """Returns the anchors that the ladder has for the first runtime, in the order to try them."""
    first = {
        (candidate.precision, candidate.macs_share): candidate
        for candidate in usable
        if candidate.target == usable[0].target
    }
    return [first[anchor] for anchor in _ANCHORS if anchor in first]


def _preference(
    prediction: Prediction, candidate: Candidate, budget: Budget
) -> tuple[float, float, float]:
    """Returns a key by which better candidates sort first; see the policy above."""
    excess = _worst_excess(prediction, budget)
    # Less than a tenth of a point is no reason to leave the preferred runtime: of a thousand test
    # samples it is one.
    return max(excess, 0.0), round(prediction.accuracy_drop, 3), -candidate.macs_share


def _worst_excess(prediction: Prediction, budget: Budget) -> float:
    """Returns the largest predicted excess over a limit, 0 or below if all are kept."""
    misses = [
        Miss(item=item, limit=limit, value=value)
        for item in _FIGURES
        if (limit := getattr(budget, item)) is not None
        and (value := getattr(prediction, item)) is not None
    ]
    return max((miss.excess for miss in misses), default=0.0)


def _latency(trial: Trial) -> float | None:
    return None if trial.measurement is None else trial.measurement.latency.p95_us


def _memory(trial: Trial) -> float | None:
    return None if trial.measurement is None else trial.measurement.memory.peak_rss_bytes


def _energy(trial: Trial) -> float | None:
    return None if trial.measurement is None else trial.measurement.energy.net_mj


def _wire(trial: Trial) -> float | None:
    return None if trial.built is None else trial.built.sizes.wire_bytes


def _drop(trial: Trial) -> float | None:
    return largest_drop(trial.evaluation)


_FIGURES: dict[Item, Callable[[Trial], float | None]] = {
    "wire_bytes": _wire,
    "latency_p95_us": _latency,
    "peak_memory_bytes": _memory,
    "energy_mj": _energy,
    "accuracy_drop": _drop,
}
_PRIORS: dict[Item, model.Prior] = {
    "wire_bytes": model.WIRE,
    "latency_p95_us": model.LATENCY,
    "peak_memory_bytes": model.MEMORY,
    "energy_mj": model.ENERGY,
}
_BY_PARAMETERS: frozenset[Item] = frozenset({"wire_bytes", "peak_memory_bytes"})
