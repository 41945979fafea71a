"""`trimtab init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.keys import Keys, PassphraseFile, key_sources
from trimtab.cli.options import DEFAULT_WORKSPACE, Json
from trimtab.cli.output import print_json

if TYPE_CHECKING:
    from trimtab.package.new_repository import KeyPlan


def command(
    path: Annotated[Path, typer.Argument(help="A folder to make.")] = DEFAULT_WORKSPACE,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Make a workspace: signing keys, and room for packages and reports.

    The root and targets keys are encrypted if there is a passphrase. For several keys and
    thresholds see `trimtab repo init`.

    Example: trimtab init plant-7
    """
    make_workspace(path, None, keys, passphrase_file, json=json)


def make_workspace(
    path: Path, plan: KeyPlan | None, keys: Path | None, passphrase_file: Path | None, *, json: bool
) -> None:
    """Makes a workspace and says what to do with its keys; `plan` as in `Workspace.create`."""
    from trimtab.workflow.workspace import Workspace

    sources = key_sources(keys, passphrase_file)
    workspace = Workspace.create(path, plan=plan, sources=sources)
    encrypted = sources.passphrases.for_new_keys() is not None
    folder = keys or workspace.repository_path / "keys"
    if json:
        made = {"workspace": path, "root": workspace.root_file, "offline_keys": folder}
        print_json({**{k: str(v) for k, v in made.items()}, "encrypted": encrypted})
        return
    typer.echo(f"made the workspace {path}")
    typer.echo(
        f"devices trust {workspace.root_file}: `trimtab enroll` brings it to them; put it by hand "
        "on devices that are not enrolled"
    )
    if encrypted:
        typer.echo(f"the root and targets keys are in {folder}, encrypted; keep them offline")
    else:
        typer.echo(
            f"the root and targets keys in {folder} are NOT encrypted: whoever reads them can "
            "sign releases (docs/keys.md)"
        )
