"""One graph, three kinds of file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import ExportError, ModelError
from trimtab.graph.access import infer_shapes
from trimtab.targets import onnxruntime_writer, openvino_writer, tflite_writer
from trimtab.targets.bisect import cut, cut_points, describe, first_departure
from trimtab.targets.gate import Comparison, check_file
from trimtab.targets.writing import Option, Writer, WriteRequest
from trimtab_agent.contract.manifest import RuntimeName

WRITERS: dict[RuntimeName, Writer] = {
    "tflite": tflite_writer.write,
    "onnxruntime": onnxruntime_writer.write,
    "openvino": openvino_writer.write,
}

_BISECTED = 8
"""Samples that a search for the faulty layer looks at; each look writes a file."""


class Exported(msgspec.Struct, kw_only=True, frozen=True):
    """A file that passed the gate.

    Attributes:
        target: The runtime that it is for.
        path: The file to load.
        files: Everything that belongs to it, `path` included.
        file_bytes: All of `files` together.
        weight_bytes: The weights as stored in it.
        comparison: How it differs from the graph that it was made from.
        options: Session options that it needs.
    """

    target: RuntimeName
    path: Path
    files: tuple[Path, ...]
    file_bytes: int
    weight_bytes: int
    comparison: Comparison
    options: dict[str, Option]


def export(
    model: ir.Model,
    target: RuntimeName,
    directory: Path,
    *,
    samples: tuple[NDArray[Any], ...],
    sized: bool = False,
    request: WriteRequest | None = None,
) -> Exported:
    """Writes `model` for a runtime and lets it out if it does what the graph does.

    Args:
        model: A float or a QDQ graph.
        target: The runtime.
        directory: Where to; made if it is missing. Nothing is left in it when the gate refuses.
        samples: One array per input, samples along axis 0, to compare on.
        sized: Whether inputs have the sizes of `samples` in practice too, so that a target with
            fixed sizes may take them for dimensions that the graph leaves free.
        request: What the file is to be called and to say of itself.

    Raises:
        UnsupportedOperatorError: The target lacks operators of the graph.
        ExportError: The file does not load, or computes something else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as scratch:
        graph = _with_sizes(model, samples) if sized and target == "tflite" else model
        written = WRITERS[target](graph, Path(scratch), request or WriteRequest())
        try:
            comparison = check_file(model, target, written, samples)
        except ExportError as error:
            raise ExportError(
                f"{error}{_first_faulty(graph, target, samples)}. It was not let out; leave this "
                "target out or report the model"
            ) from error
        files = []
        for path in sorted(Path(scratch).iterdir()):
            path.replace(directory / path.name)
            files.append(directory / path.name)
    return Exported(
        target=target,
        path=directory / written.path.name,
        files=tuple(files),
        file_bytes=sum(path.stat().st_size for path in files),
        weight_bytes=written.weight_bytes,
        comparison=comparison,
        options=written.options,
    )


def _first_faulty(model: ir.Model, target: RuntimeName, samples: tuple[NDArray[Any], ...]) -> str:
    """Names the first layer whose part of the graph does not pass the gate either."""

    def departs(name: str) -> bool:
        prefix = cut(model, name)
        chosen = tuple(array[:_BISECTED] for array in prefix.choose(samples))
        with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
            try:
                written = WRITERS[target](prefix.model, Path(folder), WriteRequest())
                check_file(prefix.model, target, written, chosen)
            except (ExportError, ModelError):
                return True
        return False

    found = first_departure(model, cut_points(model), departs)
    return "" if found is None else f"; it first departs at {describe(model, found)}"


def _with_sizes(model: ir.Model, samples: tuple[NDArray[Any], ...]) -> ir.Model:
    """Returns a copy whose inputs have the samples' sizes where they had free ones.

    The batch, along the first axis, stays free.
    """
    model = model.clone()
    for value, array in zip(model.graph.inputs, samples, strict=True):
        dims = list(value.shape or ())
        sizes = zip(dims[1:], array.shape[1:], strict=True)
        dims[1:] = [dim if isinstance(dim, int) else size for dim, size in sizes]
        value.shape = ir.Shape(dims)
    infer_shapes(model)
    return model
