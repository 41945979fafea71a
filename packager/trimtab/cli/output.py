"""How commands print: results to standard output, everything else to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import typer

from trimtab_agent.errors import TrimtabError

_WIDTH = 170


def log(line: str) -> None:
    """Prints a line of progress, to standard error, so that `--json` output stays clean."""
    typer.echo(line, err=True)


def printable(text: str) -> str:
    """Returns a text without control characters: what a device says must not steer a terminal."""
    return "".join(
        one if one.isprintable() or one == "\n" else f"\\x{ord(one):02x}" for one in text
    )


def print_json(value: object) -> None:
    """Prints a struct, or anything made of them, as indented JSON."""
    from trimtab_agent.contract import codec

    sys.stdout.write(codec.encode_pretty(value).decode())


def print_table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Prints a plain table; numbers are expected as text with their units."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        # As it is: rich would take "[...]" for its own markup.
        table.add_row(*[Text(printable(str(cell))) for cell in row])
    show(table)


def show(table: object) -> None:
    """Prints a rich table; into a file or a pipe, wide enough to keep each row on one line."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def fail(error: TrimtabError, *, as_json: bool) -> int:
    """Prints an error as one line and returns the exit code."""
    message = printable(" ".join(str(error).split()))
    if as_json:
        print_json({"error": {"reason": error.reason, "message": message}})
    else:
        typer.echo(f"trimtab: error: {message}", err=True)
    return error.exit_code
