"""What ONNX Runtime executes of a file: the graph that it makes of it when it loads it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx_ir as ir

from trimtab.errors import ExportError
from trimtab.targets.float_reasons import FloatReasons
from trimtab.targets.placed import PlacedOperator

_INTEGER_KERNELS = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger", "Dynamic")
"""How the names of operators begin that compute with integers."""
_ROUNDED = 4
"""The accuracy level of MatMulNBits that rounds activations to 8 bits."""


def placed(path: Path, model: ir.Model) -> tuple[PlacedOperator, ...]:
    """Lists the operators that ONNX Runtime executes on the CPU; see `Placer`.

    Raises:
        ExportError: ONNX Runtime cannot load the file.
    """
    reasons = FloatReasons(model, "ONNX Runtime")
    graph = _optimised(path).graph
    dtypes = {value: value.dtype for value in (*graph.inputs, *graph.initializers.values())}
    found = []
    for node in graph:
        dtype = _result_type(node, dtypes)
        dtypes.update(dict.fromkeys(node.outputs, dtype))
        name = node.name or str(node.outputs[0].name)
        kind = _computes_with(node, dtype)
        names = (*(str(value.name) for value in node.outputs), name)
        found.append(
            PlacedOperator(
                name=name,
                operator=node.op_type,
                dtype=kind,
                reason=reasons.why(names) if kind.startswith("float") else None,
            )
        )
    return tuple(found)


def _optimised(path: Path) -> ir.Model:
    """Returns the graph that is executed: ONNX Runtime writes it down while it loads the file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
        result = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(result)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base but Exception
            raise ExportError(f"{path.name} does not load in ONNX Runtime: {error}") from error
        return ir.load(result)


def _result_type(node: ir.Node, dtypes: dict[ir.Value, ir.DataType | None]) -> ir.DataType | None:
    """Returns the type of a node's first output, from those of its inputs."""
    known = node.outputs[0].dtype
    if known is not None:
        return known
    if node.op_type in ("Cast", "DequantizeLinear"):
        return (
            ir.DataType(node.attributes["to"].as_int())
            if "to" in node.attributes
            else (ir.DataType.FLOAT)
        )
    if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        return ir.DataType.UINT8 if zero is None else dtypes.get(zero)
    if node.op_type.startswith("QLinear"):
        return ir.DataType.UINT8
    if node.domain or node.op_type in ("Gather", "Where"):
        floats = [value for value in node.inputs if value and dtypes.get(value) == 1]
        return ir.DataType.FLOAT if floats else _first(node, dtypes)
    return _first(node, dtypes)


def _first(node: ir.Node, dtypes: dict[ir.Value, ir.DataType | None]) -> ir.DataType | None:
    return next((dtypes[value] for value in node.inputs if value in dtypes), None)


def _computes_with(node: ir.Node, result: ir.DataType | None) -> str:
    """Returns the type that a node computes with, by numpy's name."""
    if node.op_type.startswith(_INTEGER_KERNELS) or node.op_type == "QuantizeLinear":
        return "int8"
    if node.op_type == "MatMulNBits":
        level = node.attributes.get("accuracy_level")
        return "int8" if level is not None and level.as_int() == _ROUNDED else "float32"
    return "unknown" if result is None else str(result.numpy().name)
