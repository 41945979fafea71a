"""The outcome of an evaluation: every figure with its interval, and every class and group."""

from __future__ import annotations

import msgspec

from trimtab.evaluate.harm import harmed
from trimtab_agent.contract.manifest import Effect, Evaluation, Figure


class Assessment(msgspec.Struct, kw_only=True, frozen=True):
    """How good a model is, and against another.

    Attributes:
        task: What it does.
        samples: How many it was run on.
        figures: The first stands for the whole; none without labels.
        agreement: With the original; None if that was not run.
        max_abs_error: Largest difference of any element of any output from the original's.
        effects: Classes and groups; None if there was nothing to tell samples apart by.
    """

    task: str
    samples: int
    figures: tuple[Figure, ...]
    agreement: Figure | None
    max_abs_error: float | None
    effects: tuple[Effect, ...] | None

    def summary(self) -> Evaluation:
        """Returns what the manifest carries: of classes and groups, those that are harmed.

        Needs an assessment against the original.
        """
        assert self.max_abs_error is not None, "only a model against its original is summed up"
        main = self.figures[0] if self.figures else None
        agreement = self.agreement
        return Evaluation(
            metric=None if main is None else main.name,
            value=None if main is None else main.value,
            reference=None if main is None else main.reference,
            agreement=None if agreement is None else agreement.value,
            samples=self.samples,
            max_abs_error=self.max_abs_error,
            task=self.task,
            interval=None if main is None else main.interval,
            change_interval=None if main is None else main.change_interval,
            p_value=None if main is None else main.p_value,
            agreement_metric=None if agreement is None else agreement.name,
            agreement_interval=None if agreement is None else agreement.interval,
            figures=self.figures,
            harmed=None if self.effects is None else tuple(harmed(self.effects)),
        )
