"""Which rank each layer gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from trimtab.compress.factors.base import Rung
from trimtab.compress.selection import nearest_step

Ladder = Sequence[Rung]
Replace = Callable[[ir.Model, Mapping[str, Rung]], ir.Model]


_TRIED_RUNGS = 16
"""Of a layer's ladder, in validation: each halving of the choice runs the model on all samples."""


def by_energy(ladder: Ladder, lost: float) -> Rung | None:
    """Return the cheapest rung that loses no more than a share of the energy, None without one.

    Args:
        ladder: Cheapest first.
        lost: The share.
    """
    # Energies of a whole spectrum add up to one only within rounding.
    return next((rung for rung in ladder if rung.lost <= lost + 1e-12), None)


def by_budget(
    ladders: Sequence[Ladder],
    costs: Sequence[Sequence[int]],
    whole: Sequence[int],
    target: float,
) -> list[Rung | None]:
    """Choose so that the layers together cost about a target.

    All layers may lose the same share of their energy: the smallest share with which they meet
    the target, found by bisection.

    Args:
        ladders: For each layer what can be done, cheapest first.
        costs: What each rung costs.
        whole: What each layer costs as it is.
        target: What all should cost together; below what is possible, the least is chosen.
    """
    shares = sorted({rung.lost for ladder in ladders for rung in ladder}, reverse=True)
    cost_of = [
        {id(rung): cost for rung, cost in zip(ladder, own, strict=True)}
        for ladder, own in zip(ladders, costs, strict=True)
    ]

    def at(step: int) -> list[Rung | None]:
        share = -1.0 if step == len(shares) else shares[step]
        return [by_energy(ladder, share) for ladder in ladders]

    def cost(step: int) -> float:
        chosen = zip(at(step), cost_of, whole, strict=True)
        return sum(total if rung is None else known[id(rung)] for rung, known, total in chosen)

    return at(nearest_step(cost, target, len(shares)))


def by_validation(
    model: ir.Model,
    layers: Sequence[tuple[str, int]],
    ladders: Sequence[Ladder],
    *,
    max_drop: float,
    drop: Callable[[ir.Model], float],
    replace: Replace,
) -> list[Rung | None]:
    """Choose the cheapest rung of each layer with which the model still answers well.

    Layer after layer in graph order, on top of what was chosen before. Of the drop that is allowed,
    each may use up the share that it has in the cost: where more can be saved, more may be lost.

    Args:
        model: The model.
        layers: Name and cost of each.
        ladders: For each layer what can be done, cheapest first.
        max_drop: The most that may be lost in the end.
        drop: Measures what a changed model has lost.
        replace: Puts a rung in a layer's place, by the layer's name.
    """
    costs = np.cumsum([cost for _, cost in layers], dtype=np.float64)
    result: list[Rung | None] = []
    for (name, _), ladder, share in zip(layers, ladders, costs / costs[-1], strict=True):
        tried = _spread_out(ladder)
        low, high = 0, len(tried)  # the rung at `high` is good enough; none at all is, at the end
        best = model
        while low < high:
            middle = (low + high) // 2
            changed = replace(model, {name: tried[middle]})
            if drop(changed) <= max_drop * share:
                high, best = middle, changed
            else:
                low = middle + 1
        result.append(tried[high] if high < len(tried) else None)
        model = best
    return result


def _spread_out(ladder: Ladder) -> list[Rung]:
    places = np.linspace(0, len(ladder) - 1, min(len(ladder), _TRIED_RUNGS)).round()
    return [ladder[int(place)] for place in places]
