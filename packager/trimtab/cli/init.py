"""`trimtab init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import DEFAULT_WORKSPACE, Json
from trimtab.cli.output import print_json


def command(
    path: Annotated[Path, typer.Argument(help="A folder to make.")] = DEFAULT_WORKSPACE,
    json: Json = False,
) -> None:
    """Make a workspace: signing keys, and room for packages and reports.

    Example: trimtab init plant-7
    """
    from trimtab.workflow.workspace import Workspace

    workspace = Workspace.create(path)
    if json:
        print_json({"workspace": str(path), "root": str(workspace.root_file)})
        return
    typer.echo(f"made the workspace {path}")
    typer.echo(f"put {workspace.root_file} on every device: it is what they trust")
    typer.echo(f"keep {workspace.repository_path / 'keys'} to yourself")
