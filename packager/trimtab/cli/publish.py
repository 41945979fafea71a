"""`trimtab publish PACKAGE`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import DEFAULT_BROKER, DEFAULT_WORKSPACE, Broker, Json, Workspace
from trimtab.cli.output import log, print_json
from trimtab.cli.report import print_reports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trimtab.errors import DeviceTimeoutError
    from trimtab.fleet.publish import PublishResult, Terms
    from trimtab.package.read import Package
    from trimtab.workflow.deliver import Delivery
    from trimtab.workflow.workspace import Workspace as Opened
    from trimtab_agent.contract.messages import Assignment, Report

_BYTES_PER_S = 10e6
"""A pace that 100 Mbit/s Ethernet carries and a Raspberry Pi's card takes. A broker queues what a
device does not take in time, up to a limit (Mosquitto: 1,000 messages by default), and then drops
silently."""


def command(
    package: Annotated[
        str, typer.Argument(help="A .trimtab file, or NAME-VERSION of one in the workspace.")
    ],
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE",
            help="Assign it to this device, once for each; without, it is only published.",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Also send the chunks once to all these devices together, under this name, as "
            "soon as they fetch.",
            show_default=False,
        ),
    ] = None,
    bytes_per_s: Annotated[float, typer.Option(help="With --group: how fast.")] = _BYTES_PER_S,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Write it to this folder, for a USB stick or an HTTP server, and use no broker.",
            show_default=False,
        ),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    wait_s: Annotated[
        float, typer.Option(help="How long to wait for the devices' reports; 0 does not wait.")
    ] = 300.0,
    max_slowdown: Annotated[
        str,
        typer.Option(
            metavar="RATIO",
            help="Most p95 of latency, as a multiple of the running version's; off: any.",
        ),
    ] = "1.1",
    max_memory_growth: Annotated[
        str,
        typer.Option(
            metavar="RATIO",
            help="Most peak resident memory, as a multiple of the running version's; off: any.",
        ),
    ] = "1.1",
    max_energy_growth: Annotated[
        str,
        typer.Option(
            metavar="RATIO",
            help="Most energy an inference, as a multiple of the running version's; off: any.",
        ),
    ] = "1.1",
    budget_gate: Annotated[
        bool, typer.Option(help="Whether the device refuses it when it misses its budget.")
    ] = True,
    probation_s: Annotated[
        float, typer.Option(help="How long it runs on trial before it is kept.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Publish a package over MQTT, assign it to devices, and wait for their reports.

    A device measures the package against the version that it runs, and refuses what is worse than
    the limits below.

    Example: trimtab publish watch-1 --device kitchen-pi-01

    Example: trimtab publish watch-1 --device pi-01 --device pi-02 --folder /media/usb
    """
    from trimtab.fleet.publish import Terms
    from trimtab.workflow.deliver import open_delivery
    from trimtab.workflow.release import find_package
    from trimtab.workflow.workspace import Workspace as Opened
    from trimtab_agent.contract.messages import Gates

    devices = tuple(dict.fromkeys(device or ()))
    _check(devices, group, folder, bytes_per_s, probation_s)
    terms = Terms(
        gates=Gates(
            budget=budget_gate,
            latency_ratio=_ratio("--max-slowdown", max_slowdown),
            memory_ratio=_ratio("--max-memory-growth", max_memory_growth),
            energy_ratio=_ratio("--max-energy-growth", max_energy_growth),
        ),
        probation_s=probation_s,
        group=group,
    )
    opened = Opened.open(workspace)
    found = find_package(opened, package)
    if folder is not None:
        _write(opened, found, folder, devices, terms, json=json)
        return
    with open_delivery(opened, broker) as delivery:
        published = delivery.publish(found)
        log(f"published {published.target}: {published.sent_bytes:,} bytes in chunks")
        assignments = _assign(delivery, published, devices, terms)
        sent_bytes = None
        if group is not None:
            sent_bytes = delivery.broadcast(found, assignments, group, bytes_per_s)
            log(f"sent {sent_bytes:,} bytes to the group {group}")
        reports, errors = _wait(delivery, assignments, wait_s)
    if json:
        print_json(
            {
                "published": published,
                "assignments": assignments,
                "broadcast_bytes": sent_bytes,
                "reports": reports,
                "errors": [{"reason": error.reason, "message": str(error)} for error in errors],
            }
        )
    elif reports:
        print_reports(reports, {found.manifest.target_name: found.manifest})
    _exit(reports, errors)


def _check(
    devices: Sequence[str],
    group: str | None,
    folder: Path | None,
    bytes_per_s: float,
    probation_s: float,
) -> None:
    """Refuses options that contradict each other.

    Raises:
        CallerError: They do.
    """
    from trimtab_agent.contract.topics import check_device_id
    from trimtab_agent.errors import CallerError

    for name in (*devices, *([group] if group else [])):
        check_device_id(name)
    if group is not None and not devices:
        raise CallerError("--group sends to devices: name each with --device")
    if group is not None and folder is not None:
        raise CallerError("--group needs a broker, and --folder uses none: take one of them")
    if bytes_per_s <= 0:
        raise CallerError(f"--bytes-per-s must be positive, got {bytes_per_s:g}")
    if probation_s < 0:
        raise CallerError(f"--probation-s must not be negative, got {probation_s:g}")


def _ratio(option: str, text: str) -> float | None:
    """Returns the ratio, or None for `off`.

    Raises:
        CallerError: It is neither.
    """
    from trimtab_agent.errors import CallerError

    if text == "off":
        return None
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio < float("inf"):
        raise CallerError(f"{option} takes a ratio such as 1.1, or off; got {text!r}")
    return ratio


def _write(
    workspace: Opened,
    package: Package,
    folder: Path,
    devices: Sequence[str],
    terms: Terms,
    *,
    json: bool,
) -> None:
    """Writes a folder and says what it holds."""
    from trimtab.workflow.folder_release import release_to_folder

    written, assignments = release_to_folder(workspace, package, folder, devices, terms)
    if json:
        print_json({"folder": str(folder), "written": written, "assignments": assignments})
        return
    typer.echo(
        f"{folder} has {written.target}: {written.chunks_written} of {written.chunks} chunks "
        f"written, {written.written_bytes:,} bytes"
    )
    for assignment in assignments:
        typer.echo(f"assigned to {assignment.device}, counter {assignment.counter}")


def _assign(
    delivery: Delivery, published: PublishResult, devices: Sequence[str], terms: Terms
) -> list[Assignment]:
    assignments = []
    for device in devices:
        assignment = delivery.assign(device, published.target, terms=terms)
        log(f"assigned to {device}, counter {assignment.counter}")
        assignments.append(assignment)
    return assignments


def _wait(
    delivery: Delivery, assignments: Sequence[Assignment], wait_s: float
) -> tuple[list[Report], list[DeviceTimeoutError]]:
    """Returns the reports that come in time, and an error for each that does not."""
    from trimtab.errors import DeviceTimeoutError

    reports: list[Report] = []
    errors: list[DeviceTimeoutError] = []
    deadline = time.monotonic() + wait_s
    for assignment in assignments if wait_s else ():
        try:
            left_s = max(deadline - time.monotonic(), 0.0)
            reports.append(delivery.wait_for_report(assignment, left_s))
        except DeviceTimeoutError as error:
            log(f"error: {error}")
            errors.append(error)
    return reports, errors


def _exit(reports: Sequence[Report], errors: Sequence[DeviceTimeoutError]) -> None:
    """Ends the command with the code of the first device that failed."""
    from trimtab_agent.cli import exit_code

    codes = [error.exit_code for error in errors]
    codes += [exit_code(report.failure.reason) for report in reports if report.failure]
    if codes:
        raise typer.Exit(codes[0])
