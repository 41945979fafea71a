"""What the command prints: lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from trimtab_agent.contract import codec
from trimtab_agent.contract.measurement import Comparison, Measurement, OperatorTime
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
        paused: Whether nothing new is begun, by a command of the host.
        outbox: Reports that the host has not acknowledged.
    """

    device: str
    active: str | None
    manifest_sha256: str | None
    previous: str | None
    counter: int | None
    updating: str | None
    step: str | None
    paused: bool
    outbox: int


class BenchResult(msgspec.Struct, kw_only=True, frozen=True):
    """What `trimtab-agent bench` prints.

    Attributes:
        target: TUF target name of the active package.
        measurement: Of it, just now.
        comparison: With the previous version, in turns; None if it was not asked for, or that
            one cannot be measured.
        operators: Dearest first; None if they were not asked for, or the runtime has no profiler.
        operator_runs: Inferences that `operators` adds up; None if they were not asked for.
    """

    target: str
    measurement: Measurement
    comparison: Comparison | None = None
    operators: tuple[OperatorTime, ...] | None = None
    operator_runs: int | None = None


class EnrolResult(msgspec.Struct, kw_only=True, frozen=True):
    """What `trimtab-agent enroll` prints.

    Attributes:
        device: Its id.
        broker: Where it connects from now on.
        until: When its certificate expires, UTC, ISO 8601; it is renewed before.
    """

    device: str
    broker: str
    until: str


class Output(Protocol):
    """Where the command prints."""

    def progress(self, progress: Progress) -> None:
        """Prints a step of an update."""

    def report(self, report: Report) -> None:
        """Prints how an update ended."""

    def state(self, state: AgentState) -> None:
        """Prints what is active."""

    def bench(self, result: BenchResult) -> None:
        """Prints a measurement."""

    def enrolled(self, result: EnrolResult) -> None:
        """Prints that the device has its certificate."""

    def error(self, error: TrimtabError) -> None:
        """Prints what went wrong."""


class TextOutput:
    """For people: results to standard output, errors to standard error, a line each."""

    def progress(self, progress: Progress) -> None:
        """See `Output`."""
        # Why an update ended stands in its report, which is printed next.
        is_over = progress.state in {"refused", "rolled_back"}
        detail = f" ({progress.detail})" if progress.detail and not is_over else ""
        _line(f"{progress.target}: {progress.state}{detail}")

    def report(self, report: Report) -> None:
        """See `Output`."""
        if report.failure:
            now = f"{report.active} stays active" if report.active else "nothing is active"
            _line(f"{report.target}: {report.failure.message} ({now})")
        elif report.measurement:
            _line(f"{report.target}: active, {_figures(report.measurement)}")

    def state(self, state: AgentState) -> None:
        """See `Output`."""
        for name, value in msgspec.structs.asdict(state).items():
            _line(f"{name:15} {'none' if value is None else value}")

    def bench(self, result: BenchResult) -> None:
        """See `Output`."""
        found = result.measurement
        place = f"{found.runtime} {found.runtime_version}, {found.provider or 'provider unknown'}"
        _line(f"{result.target}: {_figures(found)} ({place})")
        if result.comparison is not None:
            _line(_ratios(result.comparison))
        if result.operator_runs is None:
            return
        if result.operators is None:
            _line(f"{found.runtime} has no times of single operators for Python programs")
            return
        for line in _operator_table(result.operators, result.operator_runs):
            _line(line)

    def enrolled(self, result: EnrolResult) -> None:
        """See `Output`."""
        _line(f"{result.device}: enrolled at {result.broker}; certificate until {result.until}")

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

    def bench(self, result: BenchResult) -> None:
        """See `Output`."""
        _line(codec.encode({"bench": result}).decode())

    def enrolled(self, result: EnrolResult) -> None:
        """See `Output`."""
        _line(codec.encode({"enrolled": result}).decode())

    def error(self, error: TrimtabError) -> None:
        """See `Output`."""
        found = {"reason": error.reason, "message": str(error)}
        _line(codec.encode({"error": found}).decode())


def _figures(measurement: Measurement) -> str:
    """Returns the two figures of a measurement that people ask for first."""
    milliseconds = measurement.latency.p50_us / 1000
    mebibytes = measurement.memory.peak_rss_bytes / 2**20
    return f"median latency {milliseconds:.3g} ms, peak memory {mebibytes:.0f} MiB"


def _ratios(comparison: Comparison) -> str:
    """Returns what a version takes of what the other one takes, with 95 % intervals."""
    latency = "median" if comparison.latency_percentile == 50 else "95th percentile"
    figures = (
        (f"{latency} of latency", comparison.latency_ratio, comparison.latency_interval),
        ("peak memory", comparison.memory_ratio, None),
        ("energy", comparison.energy_ratio, comparison.energy_interval),
    )
    told = [
        f"{name} {ratio:.3g}" + (f" ({ends[0]:.3g} to {ends[1]:.3g})" if ends else "")
        for name, ratio, ends in figures
        if ratio is not None
    ]
    pairs = f"{comparison.rounds} pairs of turns, {comparison.disturbed} disturbed"
    return f"as a multiple of {comparison.target}: {', '.join(told)} ({pairs})"


def _operator_table(operators: Sequence[OperatorTime], runs: int) -> Iterator[str]:
    """Yields a line for each operator: its time in one inference, and its share of all."""
    total_us = sum(each.time_us for each in operators)
    yield f"{'us a run':>10} {'share':>6} {'calls':>6}  operator, kernel, name"
    for each in operators:
        share = each.time_us / total_us if total_us else 0.0
        named = f"{each.operator}, {each.kernel or 'not told'}, {each.name}"
        yield f"{each.time_us / runs:>10.1f} {share:>6.1%} {each.calls / runs:>6g}  {named}"


def _line(text: str) -> None:
    """Prints a line at once, also into a pipe: whoever reads it waits for it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
