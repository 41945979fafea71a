"""How a graph stands between two steps of a recipe: sizes, cost, accuracy and time.

These are of the ONNX file as ONNX Runtime runs it on this machine, to compare steps with each
other. The device's own figures come later, from the device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.context import LayerForm
from trimtab.evaluate.evaluate import assess
from trimtab.graph.count import count_model
from trimtab.graph.save import save_beside
from trimtab.package.golden import GoldenSamples, encode_golden
from trimtab.package.wire import wire_bytes
from trimtab.workflow.source import Source
from trimtab_agent import runtimes
from trimtab_agent.bench.plan import Plan
from trimtab_agent.bench.process import run_child
from trimtab_agent.bench.protocol import Mode, Reply, Request
from trimtab_agent.contract.manifest import RuntimeSpec
from trimtab_agent.errors import MeasurementError

_PLAN = Plan(
    warmup_runs=3,
    warmup_s=0.1,
    warmup_limit_s=1,
    duration_s=0.3,
    min_runs=30,
    limit_s=3,
    memory_runs=3,
)
"""Long enough to tell a step that helps from one that does not: about two seconds a step."""

_MOST_CODED_BYTES = 64 * 1024**2
"""Of larger files the size on the wire is told once, at the end: coding takes a second a MB."""


class Standing(msgspec.Struct, kw_only=True, frozen=True):
    """What a graph costs and how good it is.

    Attributes:
        wire_bytes: The file as it travels; None of files above 64 MiB, before the end.
        file_bytes: The ONNX file.
        weight_bytes: The weights as stored in it.
        peak_memory_bytes: Largest resident set of a process that runs it, Python included.
        macs: Multiply-accumulates.
        parameters: Stored weights.
        nonzero_parameters: Those that are not zero.
        latency_us: Median of one inference with the profile's number of threads.
        metric: Name of the task's first figure; None without labels.
        value: That figure, on the test samples.
        agreement: With the original; None without data.
    """

    wire_bytes: int | None = None
    file_bytes: int | None = None
    weight_bytes: int
    peak_memory_bytes: int | None = None
    macs: int
    parameters: int
    nonzero_parameters: int
    latency_us: float | None = None
    metric: str | None = None
    value: float | None = None
    agreement: float | None = None


class StepSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What one step of the recipe did.

    Attributes:
        technique: Its name.
        before: How the model stood before it.
        after: How it stood after it.
        duration_s: How long the step took, in seconds.
        layers: The form that it chose for each layer, if it chose any.
    """

    technique: str
    before: Standing
    after: Standing
    duration_s: float
    layers: tuple[LayerForm, ...] = ()


def count(model: ir.Model) -> Standing:
    """Returns what can be known of a graph without running it."""
    counted = count_model(model)
    return Standing(
        weight_bytes=counted.weight_bytes,
        macs=counted.macs,
        parameters=counted.parameters,
        nonzero_parameters=counted.nonzero_parameters,
    )


def measure(model: ir.Model, source: Source, *, threads: int) -> Standing:
    """Writes a graph as an ONNX file, runs it, and returns how it stands.

    Args:
        model: A float or quantized graph.
        source: The original and its data.
        threads: For inference.

    Raises:
        DeviceError: ONNX Runtime is not installed or fails.
        FormatError: ONNX Runtime refuses the file.
        StorageError: There is no room for the file.
    """
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
        path = Path(folder) / "model.onnx"
        files = save_beside(model, path)
        size = sum(file.stat().st_size for file in files)
        session = runtimes.load("onnxruntime", path, threads=threads)
        sample = [column[:1] for column in source.samples]
        timed = _timed(path, sample, runtimes.run_samples(session, sample), threads)
        return msgspec.structs.replace(
            count(model),
            wire_bytes=wire_bytes(files) if size <= _MOST_CODED_BYTES else None,
            file_bytes=size,
            **timed,
            **_accuracy(session, source),
        )


def _accuracy(session: runtimes.Session, source: Source) -> dict[str, Any]:
    dataset = source.dataset
    if dataset is None:
        return {}
    assert dataset.task is not None, "load_source has settled it"
    run = partial(runtimes.run_samples, session)
    found = assess(run, dataset, source.reference, dataset.task).summary()
    return {"metric": found.metric, "value": found.value, "agreement": found.agreement}


def _timed(
    path: Path, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], threads: int
) -> dict[str, Any]:
    """Runs a file in processes of their own; what cannot be measured stays out."""
    samples = path.with_name("samples.npz")
    golden = GoldenSamples(
        inputs=[np.asarray(array) for array in inputs], outputs=outputs, max_abs_error=0.0
    )
    samples.write_bytes(encode_golden(golden))

    def run_pass(mode: Mode) -> Reply:
        return run_child(
            Request(
                mode=mode,
                runtime=RuntimeSpec(
                    name="onnxruntime", model=path.name, threads=threads, made_with=""
                ),
                model_path=str(path),
                golden_path=str(samples),
                plan=_PLAN,
            )
        )

    try:
        latency, memory = run_pass("latency").latency, run_pass("memory").memory
    except MeasurementError:  # a machine without room for a second process
        return {}
    return {
        "latency_us": None if latency is None else latency.p50_us,
        "peak_memory_bytes": None if memory is None else memory.peak_rss_bytes,
    }
