"""The outcome of a search as a table in the terminal. Its JSON form is the summary itself."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from trimtab.search.summary import Row, Summary
from trimtab.search.units import (
    show_accuracy,
    show_bytes,
    show_energy,
    show_points,
    show_us,
)
from trimtab.search.verdict import Item

_STYLES = {"met": "green", "unproven": "yellow", "missed": "red", "failed": "bright_black"}
_SHORT: dict[Item, str] = {
    "wire_bytes": "wire",
    "latency_p95_us": "p95",
    "peak_memory_bytes": "memory",
    "energy_mj": "energy",
    "accuracy_drop": "accuracy",
}


def build_table(summary: Summary) -> Table:
    """Returns a table with a row for every trial; the chosen one is marked and bold.

    The four sizes have a column each, because none can stand for another: what travels, what
    lies on the disk, the weights in memory, and the whole process at its largest.
    """
    table = Table(title=summary.conclusion, title_justify="left")
    table.add_column("candidate")
    for heading in ("accuracy", "change", "wire", "file", "weights", "peak memory", "p50", "p95"):
        table.add_column(heading, justify="right")
    table.add_column("energy")
    table.add_column("verdict")
    for row in summary.rows:
        table.add_row(*_cells(row), style="bold" if row.chosen else None)
    return table


def _cells(row: Row) -> list[str | Text]:
    """Returns the cells of one row. What came from elsewhere is no markup: brackets stay."""
    sizes, latency = row.sizes, row.latency
    change = None if row.accuracy_drop is None else -row.accuracy_drop
    return [
        Text(f"{'▶ ' if row.chosen else ''}{row.id}"),
        show_accuracy(row.evaluation),
        show_points(change),
        show_bytes(sizes.wire_bytes if sizes else None),
        show_bytes(sizes.file_bytes if sizes else None),
        show_bytes(sizes.weight_bytes if sizes else None),
        show_bytes(row.peak_memory_bytes),
        show_us(latency.p50_us if latency else None),
        show_us(latency.p95_us if latency else None),
        Text(show_energy(row.energy)),
        Text(_outcome(row), style=_STYLES[row.outcome]),
    ]


def _outcome(row: Row) -> str:
    """Returns the verdict in a few words; the reasons in full are in the report."""
    items = [*(_SHORT[item] for item in row.over), *(f"{_SHORT[item]}?" for item in row.without)]
    return f"{row.outcome}: {', '.join(items)}" if items else row.outcome
