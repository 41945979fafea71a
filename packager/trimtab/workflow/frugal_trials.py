"""What became of each candidate within a budget of accuracy, and why one was taken. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from trimtab.compress.frugal import Goal
from trimtab_agent.contract.manifest import RuntimeName

Verdict = Literal["within", "over", "refused"]


class Trial(msgspec.Struct, kw_only=True, frozen=True):
    """One candidate's file for one target.

    Attributes:
        candidate: Its name.
        target: The runtime.
        verdict: `within` the budget, `over` it, or `refused`: there is no file.
        reason: Why it was refused.
        wire_bytes: The file as it travels.
        file_bytes: The file.
        drop: Of the task's figure on the samples held back, plus one standard error; without
            labels, one less the agreement with the original.
        latency_us: One inference on this machine, all candidates timed in turn.
    """

    candidate: str
    target: RuntimeName
    verdict: Verdict
    reason: str | None = None
    wire_bytes: int | None = None
    file_bytes: int | None = None
    drop: float | None = None
    latency_us: float | None = None


class Choice(msgspec.Struct, kw_only=True, frozen=True):
    """What was taken for a target.

    Attributes:
        target: The runtime.
        candidate: Its name.
        stopped: Why nothing more frugal was.
    """

    target: RuntimeName
    candidate: str
    stopped: str


class Search(msgspec.Struct, kw_only=True, frozen=True):
    """How a form was found.

    Attributes:
        max_drop: The budget, as a share.
        goal: What was to become least.
        held_back: Training samples that the choice was made on.
        trials: What was tried, in that order.
        choices: One for each target that there is a file for.
    """

    max_drop: float
    goal: Goal
    held_back: int
    trials: tuple[Trial, ...]
    choices: tuple[Choice, ...]


def cost(trial: Trial, goal: Goal) -> float:
    """Returns what is to become least."""
    figure = trial.wire_bytes if goal == "size" else trial.latency_us
    assert figure is not None, "a file has a size and a time"
    return figure


def why_stopped(chosen: Trial, trials: Sequence[Trial], goal: Goal) -> str:
    """Says why nothing more frugal was taken for a target."""
    reasons = [*_better_but_not_taken(chosen, trials, goal)]
    if reasons:
        return "; ".join(reasons)
    return f"nothing that was tried is {'smaller' if goal == 'size' else 'faster'}"


def _better_but_not_taken(chosen: Trial, trials: Sequence[Trial], goal: Goal) -> Iterator[str]:
    for trial in trials:
        if trial.verdict == "refused":
            yield f"{trial.candidate} was refused ({trial.reason})"
        elif trial.verdict == "over" and cost(trial, goal) < cost(chosen, goal):
            yield f"{trial.candidate} loses {trial.drop:.2%}"
        elif trial.verdict == "within" and cost(trial, goal) < cost(chosen, goal):
            yield f"{trial.candidate} was not let out"


def describe(trial: Trial) -> str:
    """Returns a trial's outcome in a few words."""
    if trial.verdict == "refused":
        return f"refused, {trial.reason}"
    within = "within" if trial.verdict == "within" else "over"
    return f"{trial.wire_bytes:,} bytes on the wire, loses {trial.drop:.2%}: {within} the budget"
