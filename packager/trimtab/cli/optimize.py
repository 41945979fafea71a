"""`trimtab optimize MODEL`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.keys import Keys, PassphraseFile, key_sources
from trimtab.cli.options import (
    DEFAULT_BROKER,
    DEFAULT_WORKSPACE,
    Broker,
    Data,
    Device,
    ForbidHarm,
    Json,
    MaxDrop,
    MaxEnergy,
    MaxLatency,
    MaxMemory,
    MaxWire,
    Profile,
    Seed,
    TaskName,
    Workspace,
    make_budget,
    parse_targets,
)
from trimtab.cli.output import print_json, show
from trimtab.cli.progress import Log, progress

if TYPE_CHECKING:
    from trimtab.search.loop import Listener, SearchResult
    from trimtab.search.summary import Summary
    from trimtab.workflow.optimize import Task


def command(
    model: Annotated[Path, typer.Argument(help="An .onnx or .keras file.")],
    device: Device,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
    data: Data = None,
    task: TaskName = None,
    profile: Profile = None,
    target: Annotated[
        str | None, typer.Option(help="Comma-separated; by default all that the profile permits.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the packages; by default the model's.")
    ] = None,
    max_wire_bytes: MaxWire = None,
    max_latency_us: MaxLatency = None,
    max_memory_bytes: MaxMemory = None,
    max_energy_mj: MaxEnergy = None,
    max_drop: MaxDrop = 1.0,
    forbid_harm: ForbidHarm = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    broker: Broker = DEFAULT_BROKER,
    seed: Seed = 0,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Compress, send to a device, measure there, and compress again until the budget is met.

    Writes report.html and report.json. Run it again after an interruption and it goes on.

    Example: trimtab optimize watch.keras --data watch.npz --device kitchen-pi-01 -o out
    --max-wire-bytes 50000 --max-latency-us 500
    """
    from trimtab.hardware import detect_profile, load_profile
    from trimtab.workflow.deliver import open_delivery
    from trimtab.workflow.job import check_writable
    from trimtab.workflow.optimize import Task, optimize
    from trimtab.workflow.source import load_source
    from trimtab.workflow.workspace import Workspace as Opened

    opened = Opened.open(workspace, sources=key_sources(keys, passphrase_file))
    # Now, while somebody is there: the first release comes after minutes or hours of work.
    opened.repository().ceremony.check_can_release()
    check_writable(output)
    chosen = detect_profile() if profile is None else load_profile(profile)
    job = Task(
        source=load_source(model, data, task),
        data=data,
        profile=chosen,
        targets=parse_targets(target, tuple(runtime.name for runtime in chosen.runtimes)),
        device=device,
        name=name or package_name(model),
        budget=make_budget(
            max_wire_bytes, max_latency_us, max_memory_bytes, max_energy_mj, max_drop
        ),
        forbid_harm=forbid_harm,
        seed=seed,
        output=output,
    )
    with progress() as log, open_delivery(opened, broker) as delivery:
        result = optimize(job, opened, delivery, log=log, listener=_printer(log))
    summary = _summary(job, result)
    _write(summary, output)
    if json:
        print_json(summary)
    else:
        _print(summary, output)
    if result.stopped_by == "interrupted":
        raise typer.Exit(130)


def package_name(model: Path) -> str:
    """Returns a package name made from a file's: lower case, and `-` for what is not allowed."""
    import re

    name = re.sub(r"[^a-z0-9._-]+", "-", model.stem.lower()).strip("-._")
    return name[:64] or "model"


def _printer(log: Log) -> Listener:
    from trimtab.search.candidates import Candidate
    from trimtab.search.loop import Listener as Base
    from trimtab.search.trial import Built, Trial
    from trimtab.search.units import show_bytes, show_us
    from trimtab.search.verdict import Verdict

    class Printer(Base):
        def building(self, candidate: Candidate) -> None:
            log(f"\n== {candidate.id}: building")

        def measuring(self, candidate: Candidate, built: Built) -> None:
            size = show_bytes(built.sizes.wire_bytes)
            log(f"== {candidate.id}: {size} to the device, which checks and measures it")

        def done(self, trial: Trial, judged: Verdict) -> None:
            measured = trial.measurement
            p95 = show_us(measured.latency.p95_us) if measured else "not measured"
            misses = ", ".join(miss.item for miss in judged.misses)
            log(f"== {trial.candidate.id}: p95 {p95}; {judged.outcome} {misses}".rstrip())

    return Printer()


def _summary(task: Task, result: SearchResult) -> Summary:
    from trimtab.search.summary import About, build_summary
    from trimtab.workflow.compressed import tool_versions

    about = About(
        model=task.source.path.name,
        profile=task.profile.id,
        device=task.device,
        seed=task.seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tools=tool_versions(),
    )
    return build_summary(result, task.budget, about)


def _write(summary: Summary, output: Path) -> None:
    from trimtab.search.report import write_report

    write_report(summary, output)


def _print(summary: Summary, output: Path) -> None:
    from trimtab.search.table import build_table

    show(build_table(summary))
    typer.echo(f"report: {output / 'report.html'} and {output / 'report.json'}")
