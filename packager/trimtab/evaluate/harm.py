"""Harm: classes and groups that compression costs more than the rest.

A loss that is small on average can be the whole of one class. Each part is compared with all
other samples by a permutation test, and the p-values are corrected for the number of parts
(`significance`), so that of a hundred unharmed classes none is named but by a chance of 5 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ExportError
from trimtab.evaluate.intervals import (
    Interval,
    bootstrap,
    paired_share_interval,
    percentile_interval,
    wilson_interval,
)
from trimtab.evaluate.significance import holm, part_p_values
from trimtab.evaluate.tasks.base import Measure
from trimtab_agent.contract.manifest import Effect

Array = NDArray[Any]

LEVEL = 0.05


def effects(
    kind: Literal["class", "group"],
    keys: Array,
    *,
    value: Array,
    reference: Array,
    measure: Measure,
    name_of: Callable[[Any], str] = str,
) -> tuple[Effect, ...]:
    """Compares each class or group with the rest.

    Args:
        kind: What the parts are.
        keys: The part of each sample, shape `[samples]`.
        value: The compressed model's figure of each sample; bool for right and wrong.
        reference: The original's.
        measure: What these figures are.
        name_of: Turns a key into a name.

    Returns:
        One per part, in the order of their keys; none if there is one part only.
    """
    names, part = np.unique(keys, return_inverse=True)
    if len(names) < 2:
        return ()
    change = value.astype(np.float64) - reference.astype(np.float64)
    loss = -change if measure.larger_is_better else change
    p_values = holm(part_p_values(loss, part, len(names)))
    found = []
    for index, name in enumerate(names):
        mine = part == index
        interval, change_interval = _intervals(value[mine], reference[mine])
        p_value = float(p_values[index])
        found.append(
            Effect(
                kind=kind,
                name=name_of(name),
                samples=int(mine.sum()),
                metric=measure.name,
                value=float(value[mine].mean()),
                interval=interval,
                reference=float(reference[mine].mean()),
                change_interval=change_interval,
                p_value=p_value,
                harmed=p_value <= LEVEL and float(loss[mine].sum()) > 0,
            )
        )
    return tuple(found)


def forbid_harm(found: Sequence[Effect] | None) -> None:
    """Refuses a model that harms a class or group.

    Args:
        found: What `effects` has found, of all kinds; None if there was nothing to look at.

    Raises:
        ExportError: Some are harmed; the message names each with its intervals.
    """
    harmed = [effect for effect in found or () if effect.harmed]
    if harmed:
        raise ExportError(
            "the recipe forbids harm, and the compressed model loses more than elsewhere on "
            f"{'; '.join(describe(effect) for effect in harmed)}; compress less, fine-tune more, "
            "or take forbid_harm out of the recipe"
        )


def describe(effect: Effect) -> str:
    """Returns an effect in words, with its intervals."""
    low, high = effect.change_interval
    change = effect.value - effect.reference
    return (
        f"{effect.kind} {effect.name}: {effect.metric} {effect.reference:.4g} to "
        f"{effect.value:.4g}, a change of {change:+.4g} (95 % interval {low:+.4g} to {high:+.4g}, "
        f"p = {effect.p_value:.2g}, {effect.samples} samples)"
    )


def _intervals(value: Array, reference: Array) -> tuple[Interval, Interval]:
    """Returns the intervals of a part's figure and of its change."""
    if value.dtype == bool:
        return (
            wilson_interval(float(value.mean()), len(value)),
            paired_share_interval(value, reference),
        )
    change = value - reference
    draws = bootstrap([_mean(value), _mean(change)], len(value))
    first, second = (percentile_interval(row, len(value)) for row in draws)
    # A single sample has no spread to speak of: nothing is ruled out but by the figure itself.
    return first or (float(value[0]),) * 2, second or (float(change[0]),) * 2


def _mean(values: Array) -> Callable[[Array], Array]:
    return lambda counts: counts @ values / counts.sum(axis=1)


def harmed(found: Sequence[Effect]) -> Iterator[Effect]:
    """Yields the parts that lose more than the rest."""
    return (effect for effect in found if effect.harmed)
