"""What the command prints: lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import sys
from typing import Protocol

import msgspec

from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import Progress, Report
from trimtab_agent.errors import TrimtabError


class AgentState(msgspec.Struct, kw_only=True, frozen=True):
    """What `trimtab-agent status` prints.

    Attributes:
        device: The device's id.
        active: TUF target name of the active package, or None.
        manifest_sha256: Of the active package's manifest, or None.
        previous: What a rollback would make active, or None.
        counter: Of the last assignment that was accepted, or None.
        updating: TUF target name of the package whose update is under way, or None.
        step: The state that update has reached, or None.
        outbox: Reports that the host has not acknowledged.
    """

    device: str
    active: str | None
    manifest_sha256: str | None
    previous: str | None
    counter: int | None
    updating: str | None
    step: str | None
    outbox: int


class Output(Protocol):
    """Where the command prints."""

    def progress(self, progress: Progress) -> None:
        """Prints a step of an update."""

    def report(self, report: Report) -> None:
        """Prints how an update ended."""

    def state(self, state: AgentState) -> None:
        """Prints what is active."""

    def error(self, error: TrimtabError) -> None:
        """Prints what went wrong."""


class TextOutput:
    """For people: results to standard output, errors to standard error, a line each."""

    def progress(self, progress: Progress) -> None:
        """See `Output`."""
        _line(f"{progress.target}: {progress.state}")

    def report(self, report: Report) -> None:
        """See `Output`."""
        if report.failure:
            now = f"{report.active} stays active" if report.active else "nothing is active"
            _line(f"{report.target}: {report.failure.message} ({now})")
        elif report.measurement:
            milliseconds = report.measurement.latency.p50_us / 1000
            mebibytes = report.measurement.memory.peak_rss_bytes / 2**20
            _line(
                f"{report.target}: active, median latency {milliseconds:.3g} ms, "
                f"peak memory {mebibytes:.0f} MiB"
            )

    def state(self, state: AgentState) -> None:
        """See `Output`."""
        for name, value in msgspec.structs.asdict(state).items():
            _line(f"{name:15} {'none' if value is None else value}")

    def error(self, error: TrimtabError) -> None:
        """See `Output`."""
        sys.stderr.write(f"trimtab-agent: error: {' '.join(str(error).split())}\n")
        sys.stderr.flush()


class JsonOutput:
    """For programs: everything to standard output, each object under a key that says what it is."""

    def progress(self, progress: Progress) -> None:
        """See `Output`."""
        _line(codec.encode({"progress": progress}).decode())

    def report(self, report: Report) -> None:
        """See `Output`."""
        _line(codec.encode({"report": report}).decode())

    def state(self, state: AgentState) -> None:
        """See `Output`."""
        _line(codec.encode(state).decode())

    def error(self, error: TrimtabError) -> None:
        """See `Output`."""
        found = {"reason": error.reason, "message": str(error)}
        _line(codec.encode({"error": found}).decode())


def _line(text: str) -> None:
    """Prints a line at once, also into a pipe: whoever reads it waits for it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
