"""A model file, or a folder that `trimtab compress` has written, run over a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from trimtab.evaluate.assessment import Assessment
from trimtab.evaluate.evaluate import Run, assess
from trimtab.evaluate.tasks import check_task
from trimtab.graph.load import load_model
from trimtab.graph.run import GraphRunner
from trimtab.workflow.compressed import COMPRESSED_FILE, read_compressed
from trimtab.workflow.source import input_specs, output_shape, prepare_data, run_columns
from trimtab_agent import runtimes
from trimtab_agent.contract.manifest import RuntimeName, TensorSpec

_RUNTIMES: dict[str, RuntimeName] = {
    ".onnx": "onnxruntime",
    ".ort": "onnxruntime",
    ".tflite": "tflite",
    ".xml": "openvino",
}
"""The runtime that a file is run in as it is; any other is converted to a graph first."""


def evaluate_model(
    path: Path,
    data: str | Path,
    *,
    against: Path | None,
    task: str | None,
    progress: Callable[[int, int], None] | None = None,
) -> Assessment:
    """Evaluates a model, alone or against the one that it was made from.

    Args:
        path: A model file, or a folder with `compressed.json`.
        data: What `load_data` takes.
        against: The original; None to look at the model alone.
        task: What labels are for; None to detect it.
        progress: Told about every block of samples.

    Raises:
        ModelError: A file is no model.
        DataError: The data does not fit, or leaves open what the model does.
        ExportError: The two models' outputs cannot be compared.
        DeviceError: The runtime failed.
    """
    if task is not None:
        check_task(task)
    run, inputs, output = _open(path)
    original = None if against is None else load_model(against)
    if original is not None:
        # Exporters rename inputs; data is named after the original's.
        inputs, output = input_specs(original), output_shape(original)
    dataset = prepare_data(data, inputs, output, task)
    reference: list[NDArray[Any]] | None = None
    if original is not None:
        reference = run_columns(original, dataset.test.columns)
    assert dataset.task is not None, "prepare_data has settled it"
    return assess(run, dataset, reference, dataset.task, progress=progress)


def _open(path: Path) -> tuple[Run, tuple[TensorSpec, ...], Sequence[int | None]]:
    """Returns how to run a model, its inputs, and the shape of its first output."""
    if (path / COMPRESSED_FILE).is_file():
        compressed = read_compressed(path)
        session = runtimes.load(
            compressed.target,
            path / compressed.model,
            threads=compressed.threads,
            options=compressed.options,
        )
    elif path.is_file() and path.suffix in _RUNTIMES:
        session = runtimes.load(_RUNTIMES[path.suffix], path)
    else:
        graph = load_model(path)
        return GraphRunner(graph).run, input_specs(graph), output_shape(graph)
    return partial(runtimes.run_samples, session), session.inputs, session.outputs[0].shape
