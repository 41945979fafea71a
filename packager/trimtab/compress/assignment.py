"""From what layers' forms cost to the form of each: an order of moves, and how far to go. Pure.

Each move gives one layer a form that saves more. Moves are ordered by the squared distortion that
they add for what they save, so that the first moves of the order are the best ones for any
budget (the continuous relaxation of the knapsack, Dantzig 1957). How many of them a budget allows
is measured on whole models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Option:
    """A form that a layer may have.

    Attributes:
        form: Its name.
        saved: What it saves against float, in bytes or microseconds.
        distortion: What it does to the outputs; see `Effect`.
    """

    form: str
    saved: float
    distortion: float


@dataclass(frozen=True, kw_only=True)
class Move:
    """A layer is given a form.

    Attributes:
        layer: Which.
        form: The one that it has from then on.
        price: Squared distortion added for each unit saved.
    """

    layer: str
    form: str
    price: float


def moves(options: Mapping[str, Sequence[Option]]) -> list[Move]:
    """Orders what can be done to layers, the best first.

    A form is left out where others save as much for less distortion, or a mixture of two would
    (the lower convex hull), so that a layer's own moves always come in the order in which they
    save more. Of equal prices the order of the layers decides.

    Args:
        options: For each layer its forms, float aside.
    """
    found = [
        Move(layer=layer, form=option.form, price=price)
        for layer, given in options.items()
        for option, price in _hull(given)
    ]
    return sorted(found, key=lambda move: move.price)


def assign(path: Sequence[Move], count: int) -> dict[str, str]:
    """Returns the form of each layer after the first moves; layers that never moved are absent."""
    return {move.layer: move.form for move in path[:count]}


def most_within(last: int, within: Callable[[int], bool]) -> int:
    """Finds how many moves a budget allows, by bisection on what whole models lose.

    A larger budget never gives fewer: the search asks the same until the larger one allows what
    the smaller one does not, and goes on above that.

    Args:
        last: How many moves there are.
        within: Says whether a model after so many keeps the budget; not asked of 0, which does.
    """
    if last == 0 or within(last):
        return last
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        if within(middle):
            low = middle
        else:
            high = middle
    return low


def _hull(options: Sequence[Option]) -> list[tuple[Option, float]]:
    """Returns the forms on the lower convex hull of distortion over savings, with their prices."""
    chosen: list[tuple[Option, float]] = []
    saved, noise = 0.0, 0.0
    useful = [each for each in options if each.saved > 0 and math.isfinite(each.distortion)]
    while useful := [each for each in useful if each.saved > saved]:
        prices = [(each.distortion**2 - noise) / (each.saved - saved) for each in useful]
        price = min(prices)
        alike = [each for each, own in zip(useful, prices, strict=True) if own == price]
        best = max(alike, key=lambda each: each.saved)
        chosen.append((best, price))
        saved, noise = best.saved, best.distortion**2
    return chosen
