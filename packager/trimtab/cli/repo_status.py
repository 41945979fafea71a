"""`trimtab repo status`, `expire-soon` and `skip-counters`: what needs no private key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.keys import Keys, key_sources
from trimtab.cli.options import DEFAULT_WORKSPACE, Json, Workspace
from trimtab.cli.output import print_json, print_table

if TYPE_CHECKING:
    from trimtab.package.status import KeyStatus, RepositoryStatus, RoleStatus

EXPIRES_SOON = 3
"""Exit code of `expire-soon` when something does."""


def status(workspace: Workspace = DEFAULT_WORKSPACE, keys: Keys = None, json: Json = False) -> None:
    """Show roles, keys, thresholds, versions, expiries, and what waits for whose signature.

    Example: trimtab repo status -w plant-7
    """
    from trimtab.workflow.workspace import Workspace as Opened

    found = Opened.open(workspace, sources=key_sources(keys, None)).repository().ceremony.status()
    if json:
        print_json(found)
        return
    headings = ("role", "version", "expires", "must sign", "keys")
    print_table(headings, [_role_row(role) for role in found.roles])
    _print_keys(found)
    _print_staged(found)
    for path in found.unused:
        typer.echo(f"not used: {path}; destroy it if the key was replaced or removed")
    typer.echo(f"highest assignment counter: {found.counter}")


def expire_soon(
    days: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="What is soon. By default 30 for root and targets, and for snapshot and "
            "timestamp, which the host renews itself, 7 and 2.",
        ),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    json: Json = False,
) -> None:
    """List what expires when; the exit code is 3 if something does soon, for cron.

    Example: trimtab repo expire-soon --days 60
    """
    from trimtab.package.metadata import utc_now
    from trimtab.workflow.workspace import Workspace as Opened

    found = Opened.open(workspace).repository().ceremony.status()
    now = utc_now()
    soon = found.expiring(now, days)
    dated = [role for role in found.roles if role.expires is not None]
    if json:
        expires = {role.role: role.expires for role in dated}
        print_json({"expires": expires, "soon": [role.role for role in soon]})
    else:
        rows = [
            (role.role, f"{role.expires:%Y-%m-%d %H:%M} UTC", "soon" if role in soon else "")
            for role in dated
        ]
        print_table(("role", "expires", ""), rows)
    if soon:
        raise typer.Exit(EXPIRES_SOON)


def skip_counters(
    by: Annotated[
        int, typer.Option(min=1, help="How far above the highest number that is known.")
    ] = 1000,
    workspace: Workspace = DEFAULT_WORKSPACE,
    json: Json = False,
) -> None:
    """Let assignment counters go on higher, after counters.sqlite came from an old backup.

    Devices refuse a counter below one they have seen. Take more than was assigned to any one
    device since the backup.

    Example: trimtab repo skip-counters --by 1000
    """
    from trimtab.workflow.workspace import Workspace as Opened

    floor = Opened.open(workspace).repository().ceremony.skip_counters(by)
    if json:
        print_json({"counter": floor})
    else:
        typer.echo(f"the next assignment of every device has a counter above {floor}")


def _role_row(role: RoleStatus) -> tuple[object, ...]:
    expires = "" if role.expires is None else f"{role.expires:%Y-%m-%d %H:%M} UTC"
    version = "" if role.version is None else role.version
    return role.role, version, expires, f"{role.threshold} of {len(role.keys)}", _names(role)


def _names(role: RoleStatus) -> str:
    return ", ".join(key.name for key in role.keys)


def _print_keys(found: RepositoryStatus) -> None:
    rows = [
        (key.name, key.keyid[:8], key.path or key.uri, _guard(key))
        for role in found.roles
        for key in role.keys
    ]
    print_table(("key", "id", "where", ""), rows)


def _guard(key: KeyStatus) -> str:
    if key.here is None:
        return "token or service"
    if not key.here:
        return "not here"
    return "encrypted" if key.encrypted else "NOT encrypted"


def _print_staged(found: RepositoryStatus) -> None:
    for staged in found.staged:
        typer.echo(
            f"staged: {staged.role} version {staged.version}; signed by "
            f"{', '.join(staged.signed) or 'nobody'}; not by {', '.join(staged.missing) or '-'}"
        )
        for line in staged.changes:
            typer.echo(f"  {line}")
    for line in found.waiting:
        typer.echo(f"waiting: {line}")
    if found.staged and not found.waiting:
        typer.echo("enough keys have signed: run `trimtab repo sign` where the online keys are")
