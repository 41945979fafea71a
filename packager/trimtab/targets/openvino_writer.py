"""A graph to OpenVINO's intermediate representation: an `.xml`, and its weights in a `.bin`."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from trimtab.errors import ExportError
from trimtab.graph.count import count_model
from trimtab.graph.precision import has_integer_activations
from trimtab.graph.save import save_beside
from trimtab.targets.writing import WriteRequest, Written


def write(model: ir.Model, folder: Path, request: WriteRequest) -> Written:
    """Writes an `.xml` and its `.bin`; see `Writer`."""
    import openvino as ov

    path = folder / f"{request.stem}.xml"
    source = path.with_suffix(".source.onnx")
    sources = save_beside(model, source)
    try:
        converted = ov.convert_model(source)
    except Exception as error:  # its exceptions have no common base but Exception
        raise ExportError(f"OpenVINO refuses the graph: {error}") from error
    finally:
        for file in sources:
            file.unlink()
    if not has_integer_activations(model):
        # OpenVINO would round the activations of layers with integer weights to 8 bits; whether
        # activations are rounded is a choice for a recipe.
        converted.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    # Storing weights in half precision rounds them; that is a choice for a recipe, not for here.
    ov.save_model(converted, path, compress_to_fp16=False)
    return Written(path=path, weight_bytes=count_model(model).weight_bytes)
