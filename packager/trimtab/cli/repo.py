"""`trimtab repo`: the commands about signing keys and the metadata they sign."""

from __future__ import annotations

import typer

from trimtab.cli import repo_keys, repo_status

app = typer.Typer(
    help="Keys and signatures: who may sign what, and what waits or expires (docs/keys.md).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("init")(repo_keys.init)
app.command("status")(repo_status.status)
app.command("sign")(repo_keys.sign)
app.command("rotate")(repo_keys.rotate)
app.command("refresh")(repo_keys.refresh)
app.command("expire-soon")(repo_status.expire_soon)
app.command("skip-counters")(repo_status.skip_counters)
