"""`trimtab enroll`."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import DEFAULT_WORKSPACE, Json, Workspace
from trimtab.cli.output import log, print_json, print_table

if TYPE_CHECKING:
    from trimtab.fleet.registry import Registry
    from trimtab.workflow.workspace import Workspace as Opened

_IN_FORCE_S = 20.0
"""Longest wait for the broker: a restart with much retained takes seconds."""
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def command(
    device: Annotated[str | None, typer.Argument(help="The device's id.")] = None,
    valid: Annotated[
        str, typer.Option(help="How long the token can be used, such as 30m, 24h or 7d.")
    ] = "24h",
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Take back the device's certificates and tokens.")
    ] = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    json: Json = False,
) -> None:
    """Make a one-time token with which a device gets its certificate, or list who has one.

    The token goes to the device by a way that nobody can change, such as ssh or a USB stick:
    trimtab-agent enroll --token-file FILE --config agent.toml. Without DEVICE, the devices are
    listed.

    Example: trimtab enroll kitchen-pi-01 --valid 2h > token.txt
    """
    from trimtab.workflow.identity import open_registry
    from trimtab.workflow.workspace import Workspace as Opened
    from trimtab_agent.errors import CallerError

    opened = Opened.open(workspace)
    if device is None:
        if revoke:
            raise CallerError("say which device: trimtab enroll --revoke DEVICE")
        _list(open_registry(opened), json=json)
    elif revoke:
        _revoke(opened, device, json=json)
    else:
        _make_token(opened, device, _duration(valid), json=json)


def _make_token(opened: Opened, device: str, valid: timedelta, *, json: bool) -> None:
    from trimtab.fleet.broker_address import BrokerAddress
    from trimtab.workflow.identity import open_enrolment
    from trimtab_agent.contract.enrolment import encode_token

    address = BrokerAddress.read(opened.identity_path)
    token, revision = open_enrolment(opened).new_token(
        device, valid, broker=address.broker, enrolment=address.enrolment
    )
    text = encode_token(token)
    usable = _wait_until_in_force(opened, revision)
    if json:
        print_json({"device": device, "token": text, "expires": token.expires, "usable": usable})
        return
    typer.echo(text)
    log(f"for {device}, once, until {token.expires}; on the device:")
    log("  trimtab-agent enroll --token-file FILE --config /etc/trimtab/agent.toml")
    if not usable:
        log("trimtab serve does not run now; the token can be used when it does")


def _revoke(opened: Opened, device: str, *, json: bool) -> None:
    from trimtab.workflow.identity import open_registry
    from trimtab_agent.errors import CallerError

    count, revision = open_registry(opened).revoke(device, datetime.now(timezone.utc))
    if not count:
        raise CallerError(f"{device!r} has no certificate and no token: see trimtab enroll")
    done = _wait_until_in_force(opened, revision)
    if json:
        print_json({"device": device, "revoked": count, "in_force": done})
    elif done:
        typer.echo(f"{device} is revoked; the broker has disconnected it and refuses it now")
    else:
        typer.echo(f"{device} is revoked; trimtab serve does not run now, and will refuse it")


def _list(registry: Registry, *, json: bool) -> None:
    now = datetime.now(timezone.utc)
    rows = [
        {
            "device": one.device,
            "what": "certificate",
            "state": "revoked" if one.revoked else "expired" if one.expires <= now else "valid",
            "expires": one.expires.isoformat(timespec="seconds"),
        }
        for one in registry.certificates()
    ] + [
        {
            "device": one.device,
            "what": "token",
            "state": "used" if one.key_sha256 else "open",
            "expires": one.expires.isoformat(timespec="seconds"),
        }
        for one in registry.open_tokens(now)
    ]
    if json:
        print_json(rows)
    else:
        print_table(("device", "what", "state", "expires"), (row.values() for row in rows))


def _wait_until_in_force(opened: Opened, revision: int) -> bool:
    """Waits until the broker knows of a change; False when `trimtab serve` does not run."""
    from trimtab.fleet.broker_address import BrokerAddress
    from trimtab.workflow.identity import open_registry
    from trimtab_agent.durable import sole_user
    from trimtab_agent.errors import CallerError

    try:
        BrokerAddress.read(opened.identity_path)
    except CallerError:  # it serves without TLS, if at all
        return False
    registry, deadline = open_registry(opened), time.monotonic() + _IN_FORCE_S
    while registry.revision_in_force < revision:
        try:
            with sole_user(opened.broker_path):
                return False
        except CallerError:  # somebody serves
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
    return True


def _duration(text: str) -> timedelta:
    from trimtab_agent.errors import CallerError

    match = re.fullmatch(r"(\d{1,4})([mhd])", text)
    if match is None:
        raise CallerError(f"--valid {text!r} is no duration: take for example 30m, 24h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
