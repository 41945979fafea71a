"""The outcome of a search as one HTML file that needs no network, and as JSON beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2

from trimtab.search import plot, units
from trimtab.search.summary import Row, Summary
from trimtab.search.verdict import Item
from trimtab_agent.contract import codec
from trimtab_agent.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its words."""

    id: str
    title: str
    x_title: str
    y_title: str
    chart: plot.Chart | None


def write_report(summary: Summary, directory: Path) -> tuple[Path, Path]:
    """Writes `report.html` and `report.json`.

    Args:
        summary: What to show.
        directory: Where to; it is made if it is not there.

    Returns:
        The paths of the two files.

    Raises:
        StorageError: They cannot be written.
    """
    html, json = directory / "report.html", directory / "report.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        json.write_bytes(codec.encode_pretty(summary))
        html.write_text(render_html(summary), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"report in {directory} cannot be written: {error.strerror}") from error
    return html, json


def render_html(summary: Summary) -> str:
    """Returns the report as one HTML document with everything inside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trimtab.search", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        summary=summary,
        figures=[_latency_figure(summary), _size_figure(summary)],
        limits=_limits(summary),
        units=units,
        plot=plot,
    )


def _latency_figure(summary: Summary) -> Figure:
    """Returns accuracy against the 95th percentile of latency."""
    return _figure(
        summary,
        item="latency_p95_us",
        x_title="95th percentile of latency on the device",
        cost=lambda row: row.latency.p95_us if row.latency else None,
        show=units.show_us,
    )


def _size_figure(summary: Summary) -> Figure:
    """Returns accuracy against the size on the wire."""
    return _figure(
        summary,
        item="wire_bytes",
        x_title="size on the wire",
        cost=lambda row: row.sizes.wire_bytes if row.sizes else None,
        show=units.show_bytes,
    )


def _figure(
    summary: Summary,
    *,
    item: Item,
    x_title: str,
    cost: Callable[[Row], float | None],
    show: Callable[[float], str],
) -> Figure:
    """Returns accuracy, or without labels agreement, against a cost."""
    evaluations = [row.evaluation for row in summary.rows if row.evaluation is not None]
    labelled = any(evaluation.value is not None for evaluation in evaluations)
    y_title = "accuracy" if labelled else "agreement with the original"
    points = [
        _point(row, x, y, f"{y_title} {units.show_share(y)}, {show(x)}")
        for row in summary.rows
        if (x := cost(row)) is not None and (y := _share(row, labelled=labelled)) is not None
    ]
    chart = plot.build_chart(
        points,
        x_limit=getattr(summary.budget, item),
        y_limit=_lowest_share(summary, labelled=labelled),
        show_x=show,
        show_y=units.show_share,
    )
    title = f"{y_title.capitalize()} against {'latency' if item == 'latency_p95_us' else 'size'}"
    return Figure(id=item, title=title, x_title=x_title, y_title=y_title, chart=chart)


def _point(row: Row, x: float, y: float, detail: str) -> plot.Point:
    return plot.Point(
        x=x,
        y=y,
        label=row.id,
        detail=f"{detail}; {row.outcome}",
        css=f"{row.target} {row.outcome}",
        shape="square" if row.precision == "int8" else "circle",
        chosen=row.chosen,
    )


def _share(row: Row, *, labelled: bool) -> float | None:
    """Returns what the vertical axis shows."""
    if row.evaluation is None:
        return None
    return row.evaluation.value if labelled else row.evaluation.agreement


def _lowest_share(summary: Summary, *, labelled: bool) -> float | None:
    """Returns the lowest accuracy, or agreement, that surely keeps the budget."""
    drop = summary.budget.accuracy_drop
    if drop is None:
        return None
    if not labelled:
        return 1 - drop
    references = [
        row.evaluation.reference
        for row in summary.rows
        if row.evaluation is not None and row.evaluation.reference is not None
    ]
    return references[0] - drop if references else None


def _limits(summary: Summary) -> list[tuple[str, str]]:
    """Returns the budget as names and limits; what has no limit is left out."""
    return [
        (name, units.show_item(item, limit))
        for item, name in units.ITEM_NAMES.items()
        if (limit := getattr(summary.budget, item)) is not None
    ]
