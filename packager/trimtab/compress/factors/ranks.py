"""Which rank each layer gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.factors.base import Rung
from trimtab.compress.selection import nearest_step
from trimtab.compress.sensitivity_scan import answer_loss
from trimtab.errors import DataError
from trimtab.graph.run import run_graph

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Array = NDArray[Any]
Ladder = Sequence[Rung]
Replace = Callable[[ir.Model, Mapping[str, Rung]], ir.Model]


class Limits(Protocol):
    """What validation needs to know of a step."""

    @property
    def max_drop(self) -> float | None:
        """The most that may be lost."""
        ...

    @property
    def samples(self) -> int:
        """How many samples are held back."""
        ...

    @property
    def folds(self) -> int:
        """Into how many parts they are split."""
        ...


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
    names: Sequence[str],
    ladders: Sequence[Ladder],
    *,
    limits: Limits,
    replace: Replace,
    context: Context,
) -> list[Rung | None]:
    """Choose the cheapest rung of each layer with which the model still answers well.

    Layer after layer in graph order, on top of what was chosen before; each layer may use up its
    share of the drop that is allowed. The drop is measured on parts of the samples that are held
    back; its mean plus one standard error over the parts must stay within the limit (the rule of
    Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3).

    Raises:
        DataError: There is no data.
    """
    measure = _drop_measure(model, limits, context)
    assert limits.max_drop is not None
    chosen: dict[str, Rung] = {}
    result: list[Rung | None] = []
    for number, (name, ladder) in enumerate(zip(names, ladders, strict=True), start=1):
        limit = limits.max_drop * number / len(names)
        low, high = 0, len(ladder)  # the rung at `high` is good enough; none at all is, at the end
        while low < high:
            middle = (low + high) // 2
            drop = measure(replace(model, {**chosen, name: ladder[middle]}))
            low, high = (low, middle) if drop <= limit else (middle + 1, high)
        rung = ladder[high] if high < len(ladder) else None
        result.append(rung)
        if rung is not None:
            chosen[name] = rung
    return result


def _drop_measure(model: ir.Model, limits: Limits, context: Context) -> Callable[[ir.Model], float]:
    if context.dataset is None:
        raise DataError("factorize: `max_drop` needs data: give --data")
    split = context.dataset.train
    held_back = np.random.default_rng(context.seed).permutation(len(split))[: limits.samples]
    inputs = split.take(held_back)
    labels = None if split.labels is None else split.labels[held_back]
    reference = run_graph(model, inputs)[0]
    folds = np.array_split(np.arange(len(held_back)), min(limits.folds, len(held_back)))
    losses = [answer_loss(reference[f], None if labels is None else labels[f]) for f in folds]

    def measure(changed: ir.Model) -> float:
        outputs = run_graph(changed, inputs)[0]
        drops = [loss(outputs[fold]) for loss, fold in zip(losses, folds, strict=True)]
        return float(np.mean(drops) + np.std(drops, ddof=1) / np.sqrt(len(drops)))

    return measure
