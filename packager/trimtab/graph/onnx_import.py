"""An `.onnx` file to a graph in memory, of a recent opset."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.checker
import onnx.version_converter
import onnx_ir as ir

from trimtab.errors import ModelError

_OLDEST_OPSET = 13
"""From here on axes are inputs and Softmax works along one axis; older models are brought up."""


def read_onnx(path: Path) -> ir.Model:
    """Reads an ONNX file, with the files beside it that hold its weights.

    Raises:
        ModelError: It is no valid ONNX model, or a file with its weights is missing.
    """
    try:
        # By path: a model in memory may not be above 2 GiB, nor have its weights elsewhere.
        onnx.checker.check_model(str(path))
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        if model.opset_imports.get("", _OLDEST_OPSET) < _OLDEST_OPSET:
            proto = ir.to_proto(model)
            model = ir.from_proto(onnx.version_converter.convert_version(proto, _OLDEST_OPSET))
    # ONNX's C++ code raises RuntimeError and classes of its own, protobuf and onnx-ir others.
    except Exception as error:
        raise ModelError(f"{path} is not a valid ONNX model: {_first_line(error)}") from error
    _free_negative_dimensions(model)
    return model


def _free_negative_dimensions(model: ir.Model) -> None:
    """Reads a dimension of -1 as a free one, which is what older exporters of Paddle mean."""
    for value in [*model.graph.inputs, *model.graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape(
                [None if isinstance(dim, int) and dim < 0 else dim for dim in value.shape]
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
