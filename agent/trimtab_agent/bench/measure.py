"""Measures a model, and checks its golden samples: the passes in order, each in its own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trimtab_agent.bench import environment
from trimtab_agent.bench.interface import Interface
from trimtab_agent.bench.plan import QUICK, Plan
from trimtab_agent.bench.process import run_child
from trimtab_agent.bench.protocol import Mode, Reply, Request
from trimtab_agent.contract.manifest import Golden, RuntimeSpec
from trimtab_agent.contract.measurement import Energy, Measurement, OperatorTime
from trimtab_agent.contract.messages import GoldenCheck
from trimtab_agent.errors import MeasurementError
from trimtab_agent.power import detect

_ROOT = Path("/")


def measure(
    runtime: RuntimeSpec,
    model_path: Path,
    golden_path: Path,
    *,
    plan: Plan = QUICK,
    cache_dir: Path | None = None,
    power_root: Path = _ROOT,
) -> Measurement:
    """Measures latency, memory and energy of a model on this machine, one after the other.

    Args:
        runtime: How to run it. `runtime.model` is not read.
        model_path: The model file.
        golden_path: The golden samples; they are what the model is run on.
        plan: Lengths of the passes.
        cache_dir: Where an accelerator's compiled form of the model is kept; see `runtimes.load`.
        power_root: The folder that the power sensors' `sys` is in: `/` but for tests.

    Raises:
        MeasurementError: A pass crashed, was killed or ran out of time.
        FormatError: The model or the samples cannot be loaded, or do not fit each other.
        RuntimeUnavailableError: The runtime or its provider is not on this machine.
        CallerError: The runtime refuses an option.
    """

    def run_pass(mode: Mode) -> Reply:
        return run_child(
            Request(
                mode=mode,
                runtime=runtime,
                model_path=str(model_path.resolve()),
                golden_path=str(golden_path.resolve()),
                plan=plan,
                cache_dir=_text(cache_dir),
                power_root=str(power_root.resolve()),
            )
        )

    before = environment.observe()
    timed = run_pass("latency")
    after = environment.observe()
    weighed = run_pass("memory")
    if timed.latency is None or weighed.memory is None:
        raise MeasurementError(f"a pass of {model_path} gave no figures: the versions are mixed")
    return Measurement(
        runtime=runtime.name,
        runtime_version=timed.runtime_version,
        provider=timed.provider,
        latency=timed.latency,
        memory=weighed.memory,
        energy=_energy(power_root, run_pass),
        environment=environment.compare(before, after),
    )


def check_golden(
    runtime: RuntimeSpec,
    model_path: Path,
    golden_path: Path,
    golden: Golden,
    *,
    interface: Interface | None = None,
    plan: Plan = QUICK,
    cache_dir: Path | None = None,
) -> GoldenCheck:
    """Runs a package's golden samples on this machine.

    Args:
        runtime: How to run the model. `runtime.model` is not read.
        model_path: The model file.
        golden_path: The golden samples. `golden.path` is not read but for messages.
        golden: How many samples there are, and how far an output may be off.
        interface: What the manifest says of inputs and outputs; None to hold against nothing.
        plan: For `timeout_s` alone.
        cache_dir: Where an accelerator's compiled form of the model is kept; see `runtimes.load`.

    Raises:
        GoldenError: An output is further off than `golden.max_abs_error`, or not finite.
        MeasurementError: The process crashed, was killed or ran out of time.
        FormatError: The model or the samples cannot be loaded, do not fit each other, or the
            model is not as `interface` says.
        RuntimeUnavailableError: The runtime or its provider is not on this machine.
        CallerError: The runtime refuses an option.
    """
    reply = run_child(
        Request(
            mode="golden",
            runtime=runtime,
            model_path=str(model_path.resolve()),
            golden_path=str(golden_path.resolve()),
            plan=plan,
            cache_dir=_text(cache_dir),
            golden=golden,
            interface=interface,
        )
    )
    if reply.golden is None:
        raise MeasurementError(f"the check of {model_path} gave no answer: the versions are mixed")
    return reply.golden


def time_operators(
    runtime: RuntimeSpec,
    model_path: Path,
    golden_path: Path,
    *,
    plan: Plan = QUICK,
    cache_dir: Path | None = None,
) -> tuple[OperatorTime, ...] | None:
    """Times every operator of a model on this machine, by the runtime's own profiler.

    Args:
        runtime: How to run the model. `runtime.model` is not read.
        model_path: The model file.
        golden_path: The golden samples; the first is what the model is run on.
        plan: `operator_runs` inferences are added up.
        cache_dir: Where an accelerator's compiled form of the model is kept; see `runtimes.load`.

    Returns:
        The operators, dearest first; None where the runtime's Python interface has no profiler.

    Raises:
        MeasurementError: The process crashed, was killed or ran out of time.
        FormatError: The model or the samples cannot be loaded, or do not fit each other.
        RuntimeUnavailableError: The runtime or its provider is not on this machine.
        CallerError: The runtime refuses an option.
    """
    request = Request(
        mode="operators",
        runtime=runtime,
        model_path=str(model_path.resolve()),
        golden_path=str(golden_path.resolve()),
        plan=plan,
        cache_dir=_text(cache_dir),
    )
    return run_child(request).operators


def _text(path: Path | None) -> str | None:
    """Returns a path as it travels to the child process."""
    return None if path is None else str(path.resolve())


def _energy(power_root: Path, run_pass: Callable[[Mode], Reply]) -> Energy:
    """Does the energy pass if there is a sensor: without one, no process is started for it."""
    found = detect(power_root)
    if found.source is None:
        return Energy(level="none", reason=found.reason)
    return run_pass("energy").energy or Energy(level="none", reason="the pass gave no figures")
