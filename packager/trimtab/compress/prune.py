"""Channel pruning: whole channels go, so that what is left is a smaller dense model.

Which channels go together is found by `trimtab.graph.dependencies`. Counts are kept to a multiple
that the device's kernels like: odd counts can make a pruned model slower than the original
(reported for MobileNetV2 in issue 38 of Torch-Pruning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from trimtab.compress.context import Context
from trimtab.compress.importance import squared_norms
from trimtab.compress.selection import Scope, allowed_counts, choose, nearest_step
from trimtab.errors import ModelError
from trimtab.graph.count import count_model
from trimtab.graph.dependencies import Dependencies, analyse, remove_channels

Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class PruneChannels(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How much to prune, by either `keep` or `macs`.

    Attributes:
        keep: The fraction of the prunable channels to keep.
        macs: The fraction of the multiply-accumulates to keep; the nearest that can be reached.
        criterion: What makes a channel matter. `l2`: the squared norms of its weights.
        scope: `global`: the weakest channels of the whole model go. `uniform`: the weakest of
            each group, the same fraction of each.
        multiple: Channel counts are kept to multiples of this, except where all of a group's
            channels stay. By default the profile's `channel_multiple`.
        min_channels: The fewest channels that a group keeps.
    """

    keep: Fraction | None = None
    macs: Fraction | None = None
    criterion: Literal["l2"] = "l2"
    scope: Scope = "global"
    multiple: Positive | None = None
    min_channels: Positive = 1

    def __post_init__(self) -> None:
        """Check that one way to say how much is given.

        Raises:
            ValueError: None or both are; msgspec adds where.
        """
        if (self.keep is None) == (self.macs is None):
            raise ValueError("give either `keep` or `macs`, and not both")


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
    """
    multiple = step.multiple or int(context.profile.channel_multiple.value)
    result = prune(model, step, multiple=multiple)
    for group in result.groups:
        context.log(f"{group.name}: {group.before} -> {group.after} channels")
    before, after = count_model(model).macs, count_model(result.model).macs
    context.log(f"multiply-accumulates: {before} -> {after} ({after / before:.1%})")
    return result.model


def prune(model: ir.Model, step: PruneChannels, *, multiple: int) -> PruneResult:
    """Remove the channels that matter least.

    Args:
        model: A cleaned float model with shapes inferred. It is left as it is.
        step: How much to prune, and by what.
        multiple: Channel counts are kept to multiples of this.

    Returns:
        The pruned copy, with the same inputs and outputs.

    Raises:
        ModelError: No channel can be pruned.
    """
    dependencies = _analysed(model)
    groups = dependencies.groups
    scores = [squared_norms(model, dependencies, group) for group in groups]
    allowed = [
        allowed_counts(
            len(group.classes),
            width=group.width,
            multiple=multiple,
            min_channels=step.min_channels,
        )
        for group in groups
    ]
    total = sum(len(group.classes) for group in groups)

    def dropped(keep: float) -> list[int]:
        return _dropped(dependencies, choose(scores, allowed, keep=keep, scope=step.scope))

    @cache
    def macs(kept: int) -> int:
        return count_model(remove_channels(model, dependencies, dropped(kept / total))).macs

    keep = step.keep
    if keep is None:
        assert step.macs is not None
        keep = nearest_step(macs, step.macs * count_model(model).macs, total) / total
    gone = dropped(keep)
    results = tuple(
        GroupResult(
            name=group.name,
            before=dependencies.count(group, group.classes),
            after=dependencies.count(group, set(group.classes).difference(gone)),
        )
        for group in groups
    )
    return PruneResult(model=remove_channels(model, dependencies, gone), groups=results)


def _analysed(model: ir.Model) -> Dependencies:
    dependencies = analyse(model)
    if not dependencies.groups:
        around = ", ".join(dependencies.opaque_operators) or "none"
        raise ModelError(
            "no channel of the model can be pruned: each is an input, an output, or next to an "
            f"operator that pruning does not understand (found: {around}); leave out this step"
        )
    return dependencies


def _dropped(dependencies: Dependencies, kept: Sequence[npt.NDArray[np.int64]]) -> list[int]:
    return [
        class_
        for group, places in zip(dependencies.groups, kept, strict=True)
        for class_ in np.delete(group.classes, places).tolist()
    ]
