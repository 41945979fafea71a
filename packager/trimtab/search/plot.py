"""Scatter plots as plain numbers: where points, ticks and lines go. The template draws them.

Drawn as SVG in the page instead of by a plotting library: the report stays a small file that
needs no script, prints well, and can be read by a screen reader. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 620.0, 360.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 16.0, 16.0, 48.0
"""Pixels of the drawing, and of the margins inside it that hold the labels."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point in data units.

    Attributes:
        x: A cost, above 0: smaller is better.
        y: A share, 0 to 1: larger is better.
        label: What it is.
        detail: Its figures in words.
        css: Classes that say how to draw it.
        shape: `circle` or `square`.
        chosen: Whether to mark it.
    """

    x: float
    y: float
    label: str
    detail: str
    css: str
    shape: str
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point, a tick or the end of a line, in pixels."""

    x: float
    y: float
    text: str = ""
    point: Point | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A scatter plot, in pixels.

    Attributes:
        points: Every point.
        front: The Pareto front as a stepped line, for an SVG `points` attribute.
        x_ticks: Along the lower edge, with their labels.
        y_ticks: Along the left edge, with their labels.
        x_limit: Where the budget's limit on the cost is, if there is one in sight.
        y_limit: Where the lowest accuracy that the budget allows is, if there is one.
        front_labels: The points on the front, cheapest first.
    """

    points: tuple[Mark, ...]
    front: str
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]
    x_limit: float | None
    y_limit: float | None
    front_labels: tuple[str, ...] = field(default=())


def pareto(points: Sequence[Point]) -> list[Point]:
    """Returns the points that no other one beats in both cost and share, cheapest first.

    One beats another if it is nowhere worse and somewhere better.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def build_chart(
    points: Sequence[Point],
    *,
    x_limit: float | None,
    y_limit: float | None,
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
) -> Chart | None:
    """Lays out a scatter plot, the cost on a logarithmic axis.

    Args:
        points: What to draw.
        x_limit: The budget's limit on the cost.
        y_limit: The lowest share that the budget allows.
        show_x: Writes a cost as a label.
        show_y: Writes a share as a label.

    Returns:
        The chart, or None without points.
    """
    if not points:
        return None
    xs = [point.x for point in points] + ([x_limit] if x_limit else [])
    ys = [point.y for point in points] + ([y_limit] if y_limit is not None else [])
    low, high = math.log10(min(xs)) - 0.06, math.log10(max(xs)) + 0.06
    bottom, top, step = _y_range(min(ys), max(ys))

    def to_x(x: float) -> float:
        return round(LEFT + (math.log10(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def to_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    front = pareto(points)
    return Chart(
        points=tuple(Mark(x=to_x(p.x), y=to_y(p.y), point=p) for p in points),
        front=_steps([(to_x(p.x), to_y(p.y)) for p in front]),
        x_ticks=tuple(
            Mark(x=to_x(x), y=HEIGHT - BOTTOM, text=show_x(x)) for x in _x_ticks(low, high)
        ),
        y_ticks=tuple(
            Mark(x=LEFT, y=to_y(y), text=show_y(y))
            for y in (bottom + n * step for n in range(round((top - bottom) / step) + 1))
        ),
        x_limit=to_x(x_limit) if x_limit else None,
        y_limit=to_y(y_limit) if y_limit is not None else None,
        front_labels=tuple(p.label for p in front),
    )


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """Returns a line that rises at each point: between two, the cheaper is what one gets."""
    path: list[tuple[float, float]] = []
    for x, y in points:
        if path:
            path.append((x, path[-1][1]))
        path.append((x, y))
    if path:
        path.append((WIDTH - RIGHT, path[-1][1]))
    return " ".join(f"{x:g},{y:g}" for x, y in path)


def _x_ticks(low: float, high: float) -> list[float]:
    """Returns 1, 2, 5, 10, ... between two logarithms; a finer grid where that leaves few."""
    for digits in (
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        tuple(n / 10 for n in range(10, 100)),
    ):
        ticks = [
            digit * 10.0**decade
            for decade in range(math.floor(low), math.ceil(high) + 1)
            for digit in digits
            if low <= math.log10(digit * 10.0**decade) <= high
        ]
        if len(ticks) >= 3:
            every = math.ceil(len(ticks) / 8)  # more labels would run into each other
            return ticks[::every]
    return ticks


def _y_range(low: float, high: float) -> tuple[float, float, float]:
    """Returns round ends around shares, and a round step, for four to eight ticks."""
    spread = max(high - low, 0.004)
    step = next(s for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if spread / s <= 6)
    return (
        math.floor((low - 0.04 * spread) / step) * step,
        math.ceil((high + 0.04 * spread) / step) * step,
        step,
    )
