"""Structure pruning: whole channels, heads or hidden units go, so that what is left is dense.

Which channels go together is found by `trimtab.graph.dependencies`. Counts are kept to a multiple
that the device's kernels like: odd counts can make a pruned model slower than the original
(reported for MobileNetV2 in issue 38 of Torch-Pruning).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import msgspec
import onnx_ir as ir

from trimtab.compress.context import Context
from trimtab.compress.importance import Criterion, score_groups
from trimtab.compress.keep import Amount, Candidates, Quantity, choose_kept, whole_cost
from trimtab.compress.selection import allowed_counts
from trimtab.errors import DataError, ModelError
from trimtab.graph.count import count_model
from trimtab.graph.dependencies import Dependencies, analyse, remove_channels

Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class PruneChannels(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How much to prune, by one of `keep`, `macs`, `parameters` and `time`, and which.

    Attributes:
        keep: The fraction of the prunable channels to keep.
        macs: The fraction of the multiply-accumulates to keep; the nearest that can be reached.
        parameters: The same of the parameters.
        time: The same of the time that is estimated from the profile; see `roofline`.
        criterion: What makes a channel matter; see `importance`.
        scope: `global`: the weakest channels of the whole model go. `uniform`: the weakest of
            each group, the same fraction of each. `sensitivity`: the weakest of each group, more
            where a scan shows that pruning the group alone does less harm.
        multiple: Channel counts are kept to multiples of this, except where all of a group's
            channels stay. By default the profile's `channel_multiple`.
        min_channels: The fewest channels that a group keeps.
        normalized: Prune also features that a layer norm normalises together, such as the width of
            a transformer's residual stream. The norms then work on fewer: train afterwards.
        samples: How many training samples gradients and the scan are measured on.
        rounds: Prune in so many rounds, each to the same share of the one before, training after
            each.
        epochs_per_round: Passes over the training samples after each round; 0 trains nothing.
        learning_rate: Of each round's training at its highest; by default what `fine_tune` takes.
    """

    keep: Fraction | None = None
    macs: Fraction | None = None
    parameters: Fraction | None = None
    time: Fraction | None = None
    criterion: Criterion = "l2"
    scope: Literal["global", "uniform", "sensitivity"] = "global"
    multiple: Positive | None = None
    min_channels: Positive = 1
    normalized: bool = False
    samples: Positive = 512
    rounds: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    epochs_per_round: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None

    def __post_init__(self) -> None:
        """Check what parameters mean together.

        Raises:
            ValueError: They exclude each other, or lack one; msgspec adds where.
        """
        given = [self.keep, self.macs, self.parameters, self.time]
        if sum(amount is not None for amount in given) != 1:
            raise ValueError("give one of `keep`, `macs`, `parameters` and `time`")
        if self.rounds > 1 and self.epochs_per_round == 0:
            raise ValueError("`rounds` train in between: give `epochs_per_round`, at least 1")

    @property
    def amount(self) -> Amount:
        """What is kept and how much of it."""
        given: dict[Quantity, float | None] = {
            "channels": self.keep,
            "macs": self.macs,
            "parameters": self.parameters,
            "time": self.time,
        }
        return next(Amount(what, share) for what, share in given.items() if share is not None)


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """What happened to one group: its channels before and after, and the kernel that names it."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """A pruned model, and what became of each group that could be pruned."""

    model: ir.Model
    groups: tuple[GroupResult, ...]


def apply(model: ir.Model, step: PruneChannels, context: Context) -> ir.Model:
    """Return a copy of the model with fewer channels; see `prune`. What went is logged.

    Raises:
        ModelError: No channel can be pruned.
        DataError: The criterion, the scan or the training needs data and there is none.
        RecipeError: A budget in time, and the profile lacks a figure that it needs.
        UnsupportedOperatorError: Gradients or training, and the engine lacks operators.
    """
    if context.dataset is None and (step.epochs_per_round or step.scope == "sensitivity"):
        raise DataError(
            "prune_channels: training after each round and `scope: sensitivity` need data: give "
            "--data, or leave them out"
        )
    multiple = step.multiple or int(context.profile.channel_multiple.value)
    what = step.amount.what
    for cause, names in _analysed(model, step).kept_by_cause().items():
        context.log(f"kept whole, because {cause}: {', '.join(names)}")
    whole, result = whole_cost(_analysed(model, step), model, what, context), model
    for number in range(1, step.rounds + 1):
        goal = whole * step.amount.share ** (number / step.rounds)
        share = min(1.0, goal / whole_cost(_analysed(result, step), result, what, context))
        pruned = prune(result, step, multiple=multiple, context=context, share=share)
        for group in pruned.groups:
            context.log(f"{group.name}: {group.before} -> {group.after} channels")
        result = pruned.model
        if step.epochs_per_round:
            result = _train(result, step, number, context)
    before, after = count_model(model).macs, count_model(result).macs
    context.log(f"multiply-accumulates: {before} -> {after} ({after / max(before, 1):.1%})")
    return result


def prune(
    model: ir.Model,
    step: PruneChannels,
    *,
    multiple: int,
    context: Context | None = None,
    share: float | None = None,
) -> PruneResult:
    """Remove the channels that matter least, at once.

    Args:
        model: A cleaned float model with shapes inferred. It is left as it is.
        step: How much to prune, and by what.
        multiple: Channel counts are kept to multiples of this.
        context: Gives data, profile and seed. Criteria `l2` and `batch_norm` need none, nor do
            the scopes `global` and `uniform`, nor any amount but `time`.
        share: How much of this model to keep, instead of the step's own figure.

    Returns:
        The pruned copy, with the same inputs and outputs.

    Raises:
        ModelError: No channel can be pruned, or a group lacks what the criterion looks at.
        DataError: The criterion or the scan needs data and there is none.
        RecipeError: A budget in time, and the profile lacks a figure that it needs.
        UnsupportedOperatorError: Gradients, and the engine lacks operators.
    """
    dependencies = _analysed(model, step)
    groups = dependencies.groups
    scores = score_groups(
        model, dependencies, step.criterion, samples=step.samples, context=context
    )
    allowed = [
        allowed_counts(
            len(group.classes),
            width=group.width,
            multiple=multiple,
            min_channels=step.min_channels,
        )
        for group in groups
    ]
    candidates = Candidates(model, dependencies, scores, allowed)
    amount = step.amount if share is None else replace(step.amount, share=share)
    kept = choose_kept(candidates, amount, step.scope, samples=step.samples, context=context)
    gone = candidates.dropped(kept)
    results = tuple(
        GroupResult(
            name=group.name,
            before=dependencies.count(group, group.classes),
            after=dependencies.count(group, set(group.classes).difference(gone)),
        )
        for group in groups
    )
    return PruneResult(model=remove_channels(model, dependencies, gone), groups=results)


def _train(model: ir.Model, step: PruneChannels, number: int, context: Context) -> ir.Model:
    from trimtab.compress import fine_tune

    context.log(f"round {number} of {step.rounds}")
    training = fine_tune.FineTune(epochs=step.epochs_per_round, learning_rate=step.learning_rate)
    return fine_tune.apply(model, training, context)


def _analysed(model: ir.Model, step: PruneChannels) -> Dependencies:
    dependencies = analyse(model, across_norms=step.normalized)
    if not dependencies.groups:
        around = ", ".join(dependencies.opaque_operators) or "none"
        raise ModelError(
            "no channel of the model can be pruned: each is an input, an output, or next to an "
            f"operator that pruning does not understand (found: {around}); leave out this step"
        )
    return dependencies
