"""`trimtab report`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import DEFAULT_BROKER, DEFAULT_WORKSPACE, Broker, Json, Workspace
from trimtab.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trimtab_agent.contract.manifest import Manifest
    from trimtab_agent.contract.messages import Report


def command(
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    device: Annotated[str | None, typer.Option(help="Only this device's reports.")] = None,
    collect_s: Annotated[
        float, typer.Option(help="First listen on the broker this long; 0 reads what is stored.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Show what devices have reported: sizes, accuracy, latency, memory and energy.

    Example: trimtab report --device kitchen-pi-01 --collect-s 5
    """
    from trimtab.fleet.reports import ReportStore
    from trimtab.workflow.deliver import open_delivery
    from trimtab.workflow.release import released_manifests
    from trimtab.workflow.workspace import Workspace as Opened

    opened = Opened.open(workspace)
    if collect_s > 0:
        with open_delivery(opened, broker):
            time.sleep(collect_s)
    store = ReportStore(opened.database_url)
    reports = store.all(device)
    store.close()
    manifests = released_manifests(opened, {report.target for report in reports})
    if json:
        print_json(
            [{"report": report, "manifest": manifests.get(report.target)} for report in reports]
        )
        return
    print_reports(reports, manifests)
    if not reports:
        typer.echo("no reports yet; devices send them when an update is over (--collect-s 5)")


def print_reports(reports: Sequence[Report], manifests: Mapping[str, Manifest]) -> None:
    """Prints a row per report, the four sizes apart; what is absent is a dash."""
    print_table(
        (
            "device",
            "package",
            "outcome",
            "wire",
            "file",
            "weights",
            "peak memory",
            "accuracy",
            "p50",
            "p95",
            "energy",
        ),
        (_cells(report, manifests.get(report.target)) for report in reports),
    )
    for report in reports:
        if report.failure is not None:
            typer.echo(f"{report.device}: {report.failure.reason}: {report.failure.message}")


def _cells(report: Report, manifest: Manifest | None) -> tuple[str, ...]:
    from trimtab.search.units import ABSENT, show_bytes, show_energy, show_share, show_us

    measured = report.measurement
    sizes = manifest.sizes if manifest else None
    evaluation = manifest.evaluation if manifest else None
    return (
        report.device,
        report.target.removesuffix(".json"),
        report.outcome,
        show_bytes(sizes.wire_bytes if sizes else None),
        show_bytes(sizes.file_bytes if sizes else None),
        show_bytes(sizes.weight_bytes if sizes else None),
        show_bytes(measured.memory.peak_rss_bytes if measured else None),
        show_share(evaluation.value if evaluation else None),
        show_us(measured.latency.p50_us if measured else None),
        show_us(measured.latency.p95_us if measured else None),
        show_energy(measured.energy) if measured else ABSENT,
    )
