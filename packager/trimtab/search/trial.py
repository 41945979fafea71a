"""The record of one trial: a candidate, what became of it, and what the device measured."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.search.candidates import Candidate
from trimtab_agent.contract.manifest import Counts, Evaluation, Sizes
from trimtab_agent.contract.measurement import Measurement
from trimtab_agent.contract.messages import GoldenCheck, Inventory, Report
from trimtab_agent.errors import GateError, kind_of


class TrialFailure(msgspec.Struct, kw_only=True, frozen=True):
    """Why a candidate came to nothing.

    Attributes:
        stage: `build` on the host, `device` on the device.
        reason: The error's stable word.
        message: The error's text.
    """

    stage: Literal["build", "device"]
    reason: str
    message: str


class Built(msgspec.Struct, kw_only=True, frozen=True):
    """A candidate that was compressed, exported, evaluated and packaged.

    Attributes:
        package: Path of the package file.
        target: The package's name as a TUF target.
        counts: Multiply-accumulates and parameters.
        sizes: Wire, file and weight bytes.
        evaluation: How good it is on the host; None without data.
    """

    package: str
    target: str
    counts: Counts
    sizes: Sizes
    evaluation: Evaluation | None


class Measured(msgspec.Struct, kw_only=True, frozen=True):
    """What the device said. `measurement` is None exactly where `failure` says why.

    Attributes:
        golden: The check of the golden samples, if it came to that.
        measurement: Latency, memory, energy.
        failure: Why there is no measurement.
        inventory: What the device is, where it said so.
    """

    golden: GoldenCheck | None = None
    measurement: Measurement | None = None
    failure: TrialFailure | None = None
    inventory: Inventory | None = None


class Trial(msgspec.Struct, kw_only=True, frozen=True):
    """One candidate, tried. What it did not come to is None.

    Attributes:
        candidate: What was tried.
        built: What was made of it.
        measured: What the device said.
        failure: Why the candidate came to nothing, None if it did not.
        compress_s: Seconds it took to build.
    """

    candidate: Candidate
    built: Built | None
    measured: Measured | None
    failure: TrialFailure | None
    compress_s: float | None

    @property
    def measurement(self) -> Measurement | None:
        """What the device measured, if it did."""
        return None if self.measured is None else self.measured.measurement

    @property
    def evaluation(self) -> Evaluation | None:
        """How good the packaged file is, if there was data."""
        return None if self.built is None else self.built.evaluation


def measured_from_report(report: Report) -> Measured:
    """Returns what a device's report says about a trial.

    A package that the device has measured and then refused for a figure over its limit is no
    failure: the search judges by the same figures, and learns from them. One that is active but
    could not be measured is: a search has no use for it.
    """
    failure = None
    if report.failure is not None and not _missed_a_gate(report):
        failure = TrialFailure(
            stage="device", reason=report.failure.reason, message=report.failure.message
        )
    elif report.measurement is None:
        failure = TrialFailure(
            stage="device",
            reason="measurement",
            message=f"the report ends in {report.outcome} without a measurement",
        )
    return Measured(
        golden=report.golden,
        measurement=report.measurement if failure is None else None,
        failure=failure,
        inventory=report.inventory,
    )


def _missed_a_gate(report: Report) -> bool:
    return (
        report.failure is not None
        and issubclass(kind_of(report.failure.reason), GateError)
        and report.measurement is not None
    )
