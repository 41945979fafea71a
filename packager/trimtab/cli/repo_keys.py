"""`trimtab repo init`, `sign`, `rotate` and `refresh`: what needs private keys."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.keys import Keys, PassphraseFile, key_sources
from trimtab.cli.options import DEFAULT_WORKSPACE, Json, Workspace
from trimtab.cli.output import log, print_json

if TYPE_CHECKING:
    from trimtab.package.changes import Outcome
    from trimtab.package.keys import NewKey
    from trimtab.package.sign import Repository


class Role(str, Enum):
    """The roles with keys."""

    root = "root"
    targets = "targets"
    snapshot = "snapshot"
    timestamp = "timestamp"
    assignment = "assignment"


class Refreshed(str, Enum):
    """What can be signed afresh by itself; a new snapshot comes with the timestamp when due."""

    timestamp = "timestamp"
    targets = "targets"
    root = "root"


def init(
    workspace: Workspace = DEFAULT_WORKSPACE,
    root_keys: Annotated[int, typer.Option(min=1, help="Number of root keys.")] = 1,
    root_threshold: Annotated[
        int, typer.Option(min=1, help="How many of them must sign a new root.")
    ] = 1,
    targets_keys: Annotated[int, typer.Option(min=1, help="Number of targets keys.")] = 1,
    targets_threshold: Annotated[
        int, typer.Option(min=1, help="How many of them must sign a release.")
    ] = 1,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Make a workspace with several offline keys; `trimtab init` makes one with one key a role.

    Example: trimtab repo init -w plant-7 --root-keys 3 --root-threshold 2 --keys /media/usb
    """
    from trimtab.cli.init import make_workspace
    from trimtab.package.new_repository import KeyPlan

    plan = KeyPlan(
        root_keys=root_keys,
        root_threshold=root_threshold,
        targets_keys=targets_keys,
        targets_threshold=targets_threshold,
    )
    make_workspace(workspace, plan, keys, passphrase_file, json=json)


def sign(
    workspace: Workspace = DEFAULT_WORKSPACE,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Sign what is staged with the keys that are here, and put it in force if that is enough.

    Look at it first: `trimtab repo status` lists what would be released and whose keys change.

    Example: trimtab repo sign -w /media/usb/plant-7 --keys /secure
    """
    opened = _open(workspace, keys, passphrase_file)
    staged = opened.ceremony.status().staged
    for metadata in staged:
        for line in metadata.changes:
            log(f"version {metadata.version} of {metadata.role}.json: {line}")
    outcome = opened.ceremony.sign()
    if not staged and not json:
        typer.echo("nothing is staged")
        return
    _print(outcome, json=json)


def rotate(
    role: Annotated[Role, typer.Argument(help="Whose keys change.")],
    add: Annotated[str | None, typer.Option(help="Let a new key of this name join.")] = None,
    replace: Annotated[
        str | None, typer.Option(help="Let a new key take the place of this one.")
    ] = None,
    remove: Annotated[str | None, typer.Option(help="Let this key leave.")] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, help="How many keys must sign from now on.")
    ] = None,
    key_uri: Annotated[
        str | None,
        typer.Option(
            help="The new key exists: file:PATH.pem, hsm:, gcpkms:, awskms:, azurekms:, ..."
        ),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file with the public half, for a URI of no file.")
    ] = None,
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="For assignment: the old keys are void at once, not later."),
    ] = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Change the keys of a role; by default, replace its only key by a new one.

    What the keys that are here cannot sign alone is staged: see `trimtab repo sign`. Devices
    follow once the metadata is published.

    Example: trimtab repo rotate root --replace root-2 --keys /media/usb
    """
    from trimtab.package.rotation import Rotation

    opened = _open(workspace, keys, passphrase_file)
    rotation = Rotation(
        role=role.value,
        add=_new_key(add, replace, key_uri, public_key),
        remove=tuple(name for name in (replace, remove) if name is not None),
        threshold=threshold,
        revoke=revoke,
    )
    _print(opened.ceremony.rotate(rotation), json=json)


def refresh(
    role: Annotated[
        Refreshed, typer.Argument(help="What to sign afresh; a snapshot comes with the timestamp.")
    ] = Refreshed.timestamp,
    workspace: Workspace = DEFAULT_WORKSPACE,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Sign metadata again as it is, with a new expiry. `trimtab serve` does the timestamp itself.

    Example: trimtab repo refresh root --keys /media/usb
    """
    opened = _open(workspace, keys, passphrase_file)
    if role is Refreshed.timestamp:
        _print(opened.refresh_timestamp(), json=json)
    else:
        _print(opened.ceremony.renew(role.value), json=json)


def _open(workspace: Path, keys: Path | None, passphrase_file: Path | None) -> Repository:
    from trimtab.workflow.workspace import Workspace as Opened

    return Opened.open(workspace, sources=key_sources(keys, passphrase_file)).repository()


def _new_key(
    add: str | None, replace: str | None, key_uri: str | None, public_key: Path | None
) -> NewKey | None:
    """Returns the key that joins, as the options describe it; None without one."""
    from trimtab.package.keys import NewKey
    from trimtab_agent.errors import CallerError

    joins = add is not None or replace is not None
    if not joins and key_uri is not None:
        raise CallerError("--key-uri: say --add NAME or --replace NAME too")
    if not joins:
        return None
    try:
        public = None if public_key is None else public_key.read_bytes()
    except OSError as error:
        raise CallerError(f"--public-key {public_key}: {error.strerror}") from error
    return NewKey(name=add, uri=key_uri, public_key=public)


def _print(outcome: Outcome, *, json: bool) -> None:
    if json:
        print_json({"in_force": outcome.in_force, "waiting": outcome.waiting})
        return
    if outcome.in_force:
        typer.echo(f"in force: {', '.join(outcome.in_force)}; publish to let devices follow")
    for line in outcome.waiting:
        typer.echo(f"waiting: {line}")
