"""The command line put together: every command, and how its errors are shown.

Whatever is heavy is imported when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys

import typer

from trimtab.cli import (
    compress,
    device,
    enroll,
    evaluate,
    export,
    init,
    inspect,
    optimize,
    package,
    profiles,
    publish,
    repo,
    report,
    serve,
)
from trimtab.cli.output import fail

app = typer.Typer(
    name="trimtab",
    help="Compress a trained model for a device, send it there over MQTT, and compress again "
    "from what the device measured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
for module in (
    inspect,
    profiles,
    init,
    compress,
    export,
    evaluate,
    package,
    serve,
    enroll,
    publish,
    report,
    optimize,
):
    app.command(module.__name__.rpartition(".")[2])(module.command)
app.add_typer(repo.app, name="repo")
app.add_typer(device.app, name="device")


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    show: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    """Options before a command."""
    if show:
        from trimtab import __version__

        typer.echo(f"trimtab {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def main() -> None:
    """Runs the command line; every error of Trimtab's own is one line and an exit code."""
    from trimtab_agent.errors import TrimtabError

    try:
        app()
    except TrimtabError as error:
        sys.exit(fail(error, as_json="--json" in sys.argv))
    except KeyboardInterrupt:
        typer.echo("trimtab: interrupted; what was finished is kept", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe, such as head, has had enough.
        sys.stderr.close()
        sys.exit(0)
