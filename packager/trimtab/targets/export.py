"""One graph, three kinds of file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import ExportError
from trimtab.graph.access import infer_shapes
from trimtab.graph.count import count_model
from trimtab.graph.save import save_beside, save_whole
from trimtab.targets.gate import Comparison, check_file, has_int8_activations
from trimtab_agent.contract.manifest import RuntimeName

SUFFIXES: dict[RuntimeName, str] = {
    "tflite": ".tflite",
    "onnxruntime": ".onnx",
    "openvino": ".xml",
}
"""File name ending of each target's model. OpenVINO's weights lie beside it, in a `.bin`."""


class Exported(msgspec.Struct, kw_only=True, frozen=True):
    """A file that passed the gate.

    Attributes:
        target: The runtime that it is for.
        path: The file to load.
        files: Everything that belongs to it, `path` included.
        file_bytes: All of `files` together.
        weight_bytes: The weights as stored in it.
        comparison: How it differs from the graph that it was made from.
    """

    target: RuntimeName
    path: Path
    files: tuple[Path, ...]
    file_bytes: int
    weight_bytes: int
    comparison: Comparison


def export(
    model: ir.Model,
    target: RuntimeName,
    directory: Path,
    *,
    samples: tuple[NDArray[Any], ...],
    sized: bool = False,
    stem: str = "model",
) -> Exported:
    """Writes `model` for a runtime and lets it out if it does what the graph does.

    Args:
        model: A float or a QDQ graph.
        target: The runtime.
        directory: Where to; made if it is missing. Nothing is left in it when the gate refuses.
        samples: One array per input, samples along axis 0, to compare on.
        sized: Whether inputs have the sizes of `samples` in practice too, so that a target with
            fixed sizes may take them for dimensions that the graph leaves free.
        stem: File name without its ending.

    Raises:
        UnsupportedOperatorError: The target lacks operators of the graph.
        ExportError: The file does not load, or computes something else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as scratch:
        draft = Path(scratch) / f"{stem}{SUFFIXES[target]}"
        fixed = sized and target == "tflite"
        _WRITERS[target](_with_sizes(model, samples) if fixed else model, draft)
        comparison = check_file(model, target, draft, samples)
        files = []
        for path in sorted(Path(scratch).iterdir()):
            path.replace(directory / path.name)
            files.append(directory / path.name)
    return Exported(
        target=target,
        path=directory / draft.name,
        files=tuple(files),
        file_bytes=sum(path.stat().st_size for path in files),
        weight_bytes=_weight_bytes(model, target),
        comparison=comparison,
    )


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


def _weight_bytes(model: ir.Model, target: RuntimeName) -> int:
    """Returns what the weights take as the file stores them.

    The TFLite converter keeps integer weights only where activations are integers too: in a graph
    with weights alone quantized it writes them out as float32.
    """
    count = count_model(model)
    if target == "tflite" and not has_int8_activations(model):
        return count.parameters * 4
    return count.weight_bytes


def _write_tflite(model: ir.Model, path: Path) -> None:
    from trimtab.engine.lower import to_tflite

    path.write_bytes(to_tflite(model))


def _write_onnx(model: ir.Model, path: Path) -> None:
    save_whole(model, path)


def _write_openvino(model: ir.Model, path: Path) -> None:
    import openvino as ov

    source = path.with_suffix(".source.onnx")
    sources = save_beside(model, source)
    try:
        converted = ov.convert_model(source)
    except Exception as error:
        raise ExportError(f"OpenVINO refuses the graph: {error}") from error
    finally:
        for file in sources:
            file.unlink()
    if not has_int8_activations(model):
        # OpenVINO would round the activations of layers with integer weights to 8 bits; whether
        # activations are rounded is a choice for a recipe.
        converted.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    # Storing weights in half precision rounds them; that is a choice for a recipe, not for here.
    ov.save_model(converted, path, compress_to_fp16=False)


_WRITERS = {"tflite": _write_tflite, "onnxruntime": _write_onnx, "openvino": _write_openvino}
