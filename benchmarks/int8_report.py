"""What the `int8_*.py` scripts take, and how they print what they found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timing
from digits import machine
from int8_rows import RUNTIMES

Limits = dict[str, tuple[str, float]]
"""What is asked, by column: `at least` or `at most`, and the value."""
FASTEST: Limits = {"processor_us / best peer": ("at most", 1.02)}


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Returns what all scripts take."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps files")
    parser.add_argument("--only", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--rounds", type=int, default=timing.ROUNDS)
    parser.add_argument("--json", type=Path)
    return parser


def report(rows: Sequence[dict[str, Any]], limits: Mapping[str, Limits], path: Path | None) -> None:
    """Prints the table and what holds of each of our files, and keeps the rows.

    Args:
        rows: From `measure`.
        limits: What is asked, by the beginning of a file's name.
        path: Of a JSON file, if one is wanted.
    """
    print(machine())
    print_table(rows)
    print_bars(rows, limits)
    if path is not None:
        path.write_text(json.dumps(rows, indent=1, default=str) + "\n")


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows as a table for a README."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(_text(row.get(column)) for column in columns) + " |")


def print_bars(rows: Sequence[dict[str, Any]], limits: Mapping[str, Limits]) -> None:
    """Prints whether the files keep the limits; these are by the beginning of a file's name."""
    for row in rows:
        asked = [own for prefix, own in limits.items() if row["file"].startswith(prefix)]
        for column, (sense, limit) in (item for own in asked for item in own.items()):
            if column not in row:
                continue
            value = getattr(row[column], "median", row[column])
            held = value >= limit if sense == "at least" else value <= limit
            verdict = "held" if held else "MISSED"
            print(
                f"{row['runtime']}, {row['file']}: {column} {value:.4g}, "
                f"{sense} {limit:.4g}: {verdict}"
            )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) and abs(value) <= 1 else str(value)
