"""`trimtab device`: what devices are there, and telling one to do something now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import DEFAULT_BROKER, DEFAULT_WORKSPACE, Broker, Json, Workspace
from trimtab.cli.output import print_json, print_table, printable

if TYPE_CHECKING:
    from pathlib import Path

    from trimtab_agent.contract.commands import Action, CommandReply

LISTEN_S = 1.0
"""Retained statuses come at once; this is for a slow line."""

app = typer.Typer(
    help="See which devices are there, and tell one to measure, roll back, pause or explain "
    "itself.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.")]
Wait = Annotated[float, typer.Option(help="How long to wait for the device's answer.")]


@app.command("list")
def list_devices(
    workspace: Workspace = DEFAULT_WORKSPACE, broker: Broker = DEFAULT_BROKER, json: Json = False
) -> None:
    """List every device that was ever on the broker: online or not, what is active, what it is.

    Of a device that is offline the broker knows no more than that.

    Example: trimtab device list
    """
    from trimtab.workflow.deliver import open_delivery
    from trimtab.workflow.workspace import Workspace as Opened

    with open_delivery(Opened.open(workspace), broker) as delivery:
        time.sleep(LISTEN_S)
        statuses = delivery.statuses()
    if json:
        print_json(list(statuses.values()))
        return
    print_table(
        ("device", "online", "active", "profile", "architecture", "agent"),
        (
            (
                status.device,
                ("paused" if status.paused else "yes") if status.online else "no",
                # The last will, which the broker sends for it, cannot tell what is active.
                (status.active or ("none" if status.online else "-")).removesuffix(".json"),
                *(
                    (found.profile, found.architecture, found.agent_version)
                    if (found := status.inventory)
                    else ("-", "-", "-")
                ),
            )
            for status in statuses.values()
        ),
    )


@app.command()
def measure(
    device: Name,
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    wait_s: Wait = 600.0,
    json: Json = False,
) -> None:
    """Measure the active model again, as `trimtab-agent bench` does there.

    Example: trimtab device measure kitchen-pi-01
    """
    reply = _tell(device, "measure", workspace, broker, wait_s, json=json)
    if reply.measurement and not json:
        from trimtab.search.units import show_bytes, show_energy, show_us

        found = reply.measurement
        typer.echo(
            f"{reply.active}: p50 {show_us(found.latency.p50_us)}, p95 "
            f"{show_us(found.latency.p95_us)}, peak memory "
            f"{show_bytes(found.memory.peak_rss_bytes)}, energy {show_energy(found.energy)}"
        )


@app.command()
def inventory(
    device: Name,
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    wait_s: Wait = 30.0,
    json: Json = False,
) -> None:
    """Ask what the device is: processor, memory, system, runtimes, power sensor.

    Example: trimtab device inventory kitchen-pi-01 --json
    """
    reply = _tell(device, "inventory", workspace, broker, wait_s, json=json)
    if reply.inventory and not json:
        print_json(reply.inventory)


@app.command()
def logs(
    device: Name,
    lines: Annotated[int, typer.Option(min=1, max=1000, help="How many of the last lines.")] = 200,
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    wait_s: Wait = 30.0,
    json: Json = False,
) -> None:
    """Show the last log lines of the device's agent, since it was started.

    Example: trimtab device logs kitchen-pi-01 --lines 50
    """
    reply = _tell(device, "logs", workspace, broker, wait_s, lines=lines, json=json)
    if not json:
        for line in reply.logs or ():
            typer.echo(printable(line))


@app.command()
def rollback(
    device: Name,
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    wait_s: Wait = 60.0,
    json: Json = False,
) -> None:
    """Make the version before the active one active again.

    Example: trimtab device rollback kitchen-pi-01
    """
    reply = _tell(device, "roll_back", workspace, broker, wait_s, json=json)
    if not json and not reply.failure:
        typer.echo(f"{device}: {(reply.active or 'nothing').removesuffix('.json')} is active")


@app.command()
def pause(
    device: Name,
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    wait_s: Wait = 60.0,
    json: Json = False,
) -> None:
    """Have the device begin nothing new; its model goes on running. Survives a restart.

    Example: trimtab device pause kitchen-pi-01
    """
    _tell(device, "pause", workspace, broker, wait_s, json=json)
    if not json:
        typer.echo(f"{device}: paused; go on with: trimtab device resume {device}")


@app.command()
def resume(
    device: Name,
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    wait_s: Wait = 60.0,
    json: Json = False,
) -> None:
    """Have a paused device go on with what is assigned to it.

    Example: trimtab device resume kitchen-pi-01
    """
    _tell(device, "resume", workspace, broker, wait_s, json=json)
    if not json:
        typer.echo(f"{device}: goes on")


def _tell(
    device: str,
    action: Action,
    workspace: Path,
    broker: str,
    wait_s: float,
    *,
    lines: int | None = None,
    json: bool,
) -> CommandReply:
    """Sends a command and returns the reply; ends the program where it was not carried out."""
    from trimtab.workflow.deliver import open_delivery
    from trimtab.workflow.workspace import Workspace as Opened
    from trimtab_agent.cli import exit_code

    with open_delivery(Opened.open(workspace), broker) as delivery:
        reply = delivery.tell(device, action, lines=lines, timeout_s=wait_s)
    if json:
        print_json(reply)
    if reply.failure:
        if not json:
            message = printable(reply.failure.message)
            typer.echo(f"trimtab: error: {device}: {message}", err=True)
        raise typer.Exit(exit_code(reply.failure.reason))
    return reply
