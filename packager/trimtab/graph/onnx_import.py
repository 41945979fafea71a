"""An `.onnx` file to a graph in memory, of a recent opset."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.checker
import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.errors import ModelError, UnsupportedOperatorError
from trimtab.graph.opset import raise_opset

_OLDEST_OPSET = 13
"""From here on axes are inputs and Softmax works along one axis; older models are brought up."""

_WEIGHTS_APART = 4
"""The first file version whose initializers need not be inputs too (onnx/docs/IR.md)."""

_STANDARD = ("", "ai.onnx")
_RUNTIME_DOMAINS = ("ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")
"""Domains beside the standard's own whose operators ONNX Runtime has (its OperatorKernels.md)."""


def read_onnx(path: Path) -> ir.Model:
    """Reads an ONNX file, with the files beside it that hold its weights.

    Raises:
        ModelError: It is no valid ONNX model, a file with its weights is missing, or its opset is
            so old that ONNX cannot bring it up.
        UnsupportedOperatorError: It has operators that neither ONNX nor ONNX Runtime has.
    """
    # By path: a model in memory may not be above 2 GiB, nor have its weights elsewhere. ONNX's C++
    # code raises RuntimeError and classes of its own, protobuf and onnx-ir others.
    try:
        model = ir.load(path)
        _check_operators(model, path)
        onnx.checker.check_model(str(path))
        ir.external_data.load_to_model(model)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path} is not a valid ONNX model: {_first_line(error)}") from error
    _free_negative_dimensions(model)
    # Files below version 4 list weights among the inputs, so that a caller could replace them.
    common.RemoveInitializersFromInputsPass()(model)
    model.ir_version = max(model.ir_version, _WEIGHTS_APART)
    return _raised(model, path)


def _check_operators(model: ir.Model, path: Path) -> None:
    """Refuses operators of nobody, all named: the checker names one, and not that of a domain."""
    own = {(function.domain, function.name) for function in model.functions.values()}
    nodes = [*model.graph.all_nodes()]
    for function in model.functions.values():
        nodes += function.all_nodes()
    unknown = sorted(
        {
            f"{node.domain}.{node.op_type}".removeprefix(".")
            for node in nodes
            if (node.domain, node.op_type) not in own and not _is_known(node)
        }
    )
    if unknown:
        raise UnsupportedOperatorError(
            f"{path} has operators that neither ONNX nor ONNX Runtime has: {', '.join(unknown)}; "
            "export the model without them, or as functions of the file (onnx.FunctionProto)",
            unknown,
        )


def _is_known(node: ir.Node) -> bool:
    if node.domain in _STANDARD:
        return bool(onnx.defs.has(node.op_type))
    return node.domain in _RUNTIME_DOMAINS or bool(onnx.defs.has(node.op_type, node.domain))


def _raised(model: ir.Model, path: Path) -> ir.Model:
    """Returns the model in opset 13 or above."""
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", _OLDEST_OPSET))
    if opset >= _OLDEST_OPSET:
        return model
    try:
        return raise_opset(model, _OLDEST_OPSET)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _free_negative_dimensions(model: ir.Model) -> None:
    """Reads a dimension of -1 as a free one, which is what older exporters of Paddle mean."""
    for value in [*model.graph.inputs, *model.graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape(
                [None if isinstance(dim, int) and dim < 0 else dim for dim in value.shape]
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
