"""Which channels of each group stay, so that a model costs what it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from trimtab.compress.allocation import allocate
from trimtab.compress.roofline import time_terms
from trimtab.compress.selection import Scores, best_places, choose, nearest_step
from trimtab.compress.sensitivity_scan import answer_loss, scan
from trimtab.errors import DataError, RecipeError
from trimtab.graph.dependencies import Dependencies
from trimtab.graph.dependencies.cost import (
    Cost,
    Term,
    mac_terms,
    parameter_terms,
    traffic_terms,
)
from trimtab.graph.run import run_graph

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Quantity = Literal["channels", "macs", "parameters", "time"]
Scope = Literal["global", "uniform", "sensitivity"]
Places = list[npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Amount:
    """How much of what is kept, as a share of the whole."""

    what: Quantity
    share: float


@dataclass(frozen=True)
class Candidates:
    """What there is to choose from.

    Attributes:
        model: The model.
        dependencies: What was found in it.
        scores: For each group, one number per class; the higher stay.
        allowed: For each group, how many classes it may keep, rising.
    """

    model: ir.Model
    dependencies: Dependencies
    scores: Sequence[Scores]
    allowed: Sequence[Sequence[int]]

    def dropped(self, kept: Sequence[npt.NDArray[np.int64]]) -> list[int]:
        """Return the classes that go when those at some places stay."""
        return [
            class_
            for group, places in zip(self.dependencies.groups, kept, strict=True)
            for class_ in np.delete(group.classes, places).tolist()
        ]

    def best(self, counts: Sequence[int]) -> Places:
        """Return the places of the best of each group."""
        return [best_places(s, count) for s, count in zip(self.scores, counts, strict=True)]

    def cost(self, what: Quantity, context: Context | None) -> Cost:
        """Return the cost of the model, other than in channels, as a function of what is dropped.

        Raises:
            RecipeError: It is a time, and the profile lacks a figure.
        """
        return Cost(self.dependencies, self._terms(what, context))

    def _terms(self, what: Quantity, context: Context | None) -> list[Term]:
        if what == "parameters":
            return parameter_terms(self.model)
        if what == "macs":
            return mac_terms(self.model)
        if context is None:
            raise RecipeError("prune_channels: a budget in `time` needs a profile")
        return time_terms(context.profile, mac_terms(self.model), traffic_terms(self.model))


def whole_cost(
    dependencies: Dependencies, model: ir.Model, what: Quantity, context: Context
) -> float:
    """Return what the shares of an amount are shares of.

    Raises:
        RecipeError: It is a time, and the profile lacks a figure.
    """
    if what == "channels":
        return float(sum(len(group.classes) for group in dependencies.groups))
    return Candidates(model, dependencies, [], []).cost(what, context).of([])


def choose_kept(
    candidates: Candidates,
    amount: Amount,
    scope: Scope,
    *,
    samples: int,
    context: Context | None,
) -> Places:
    """Choose which classes stay.

    Args:
        candidates: What there is to choose from.
        amount: How much to keep.
        scope: How the groups share the burden.
        samples: How many training samples the scan runs on.
        context: Gives the data, for the scope `sensitivity`.

    Returns:
        For each group, the places of the classes that stay, rising.

    Raises:
        DataError: The scope needs data and there is none.
        RecipeError: The amount is a time, and the profile lacks a figure.
    """
    if scope == "sensitivity":
        return _by_sensitivity(candidates, amount, samples, context)
    scores, allowed = candidates.scores, candidates.allowed

    def at(keep: float) -> Places:
        return choose(scores, allowed, keep=keep, scope=scope)

    if amount.what == "channels":
        return at(amount.share)
    cost = candidates.cost(amount.what, context)
    total = sum(len(group) for group in scores)
    target = amount.share * cost.of([])
    step = nearest_step(lambda kept: cost.of(candidates.dropped(at(kept / total))), target, total)
    return at(step / total)


def _by_sensitivity(
    candidates: Candidates, amount: Amount, samples: int, context: Context | None
) -> Places:
    if context is None or context.dataset is None:
        raise DataError("prune_channels: `scope: sensitivity` needs data: give --data")
    split = context.dataset.train
    chosen = np.random.default_rng(context.seed).permutation(len(split))[:samples]
    inputs = split.take(chosen)
    labels = None if split.labels is None else split.labels[chosen]
    model, groups = candidates.model, candidates.dependencies
    loss = answer_loss(run_graph(model, inputs)[0], labels)
    damages = scan(model, groups, candidates.scores, candidates.allowed, loss=loss, inputs=inputs)
    for group, damage in zip(groups.groups, damages, strict=True):
        measured = ", ".join(
            f"{count}: {lost:.3f}"
            for count, lost in zip(damage.counts[1:], damage.losses[1:], strict=True)
        )
        context.log(f"{group.name}: loss when pruned alone to {measured}")
    if amount.what == "channels":
        whole = float(sum(counts[-1] for counts in candidates.allowed))
        counts = allocate(
            damages, candidates.allowed, lambda c: float(sum(c)), amount.share * whole
        )
    else:
        cost = candidates.cost(amount.what, context)
        counts = allocate(
            damages,
            candidates.allowed,
            lambda counts: cost.of(candidates.dropped(candidates.best(counts))),
            amount.share * cost.of([]),
        )
    return candidates.best(counts)
