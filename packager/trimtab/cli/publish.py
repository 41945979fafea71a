"""`trimtab publish PACKAGE`."""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.cli.keys import Keys, PassphraseFile, key_sources
from trimtab.cli.options import DEFAULT_BROKER, DEFAULT_WORKSPACE, Broker, Json, Workspace
from trimtab.cli.output import log, print_json
from trimtab.cli.report import print_reports


def command(
    package: Annotated[
        str, typer.Argument(help="A .trimtab file, or NAME-VERSION of one in the workspace.")
    ],
    device: Annotated[
        str | None, typer.Option(help="Assign it to this device; without, it is only published.")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    wait_s: Annotated[
        float, typer.Option(help="How long to wait for the device's report; 0 does not wait.")
    ] = 300.0,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Publish a package over MQTT, assign it to a device, and wait for its report.

    Example: trimtab publish watch-1 --device kitchen-pi-01
    """
    from trimtab.workflow.deliver import open_delivery
    from trimtab.workflow.release import find_package
    from trimtab.workflow.workspace import Workspace as Opened

    opened = Opened.open(workspace, sources=key_sources(keys, passphrase_file))
    found = find_package(opened, package)
    with open_delivery(opened, broker) as delivery:
        published = delivery.publish(found)
        log(f"published {published.target}: {published.sent_bytes:,} bytes in chunks")
        if device is None:
            if json:
                print_json({"published": published, "assignment": None, "report": None})
            return
        assignment = delivery.assign(device, published.target)
        log(f"assigned to {device}, counter {assignment.counter}")
        report = delivery.wait_for_report(assignment, wait_s) if wait_s else None
    if json:
        print_json({"published": published, "assignment": assignment, "report": report})
    elif report is not None:
        print_reports([report], {found.manifest.target_name: found.manifest})
    if report is not None and report.failure is not None:
        from trimtab_agent.cli import exit_code

        raise typer.Exit(exit_code(report.failure.reason))
