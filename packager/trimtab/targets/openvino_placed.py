"""What OpenVINO executes of a file on the CPU: its runtime model.

Its nodes say with what they compute in `primitiveType` (`brgconv_avx512_I8`) and
`runtimePrecision`, and what they were made of in `originalLayersNames`
(docs.openvino.ai, "Exec graph").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from trimtab.errors import ExportError
from trimtab.targets.float_reasons import FloatReasons
from trimtab.targets.placed import PlacedOperator

Foreign = Any
"""An object of OpenVINO, which ships no complete type information."""

_NOT_EXECUTED = ("Const", "Input", "Output")
_NAMES = {"f32": "float32", "f16": "float16", "u8": "int8", "i8": "int8"}
_STORED = ("i8", "u8", "i4", "u4")


def placed(path: Path, model: ir.Model) -> tuple[PlacedOperator, ...]:
    """Lists the operators that OpenVINO executes; see `Placer`.

    Raises:
        ExportError: OpenVINO cannot load the file.
    """
    import openvino as ov

    core = ov.Core()
    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", properties)
    except RuntimeError as error:
        raise ExportError(f"{path.name} does not load in OpenVINO: {error}") from error
    rounds = bool(int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")))
    reasons = FloatReasons(model, "OpenVINO")
    executed = set[str]()
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
        if not _runs(node, about, executed):
            continue
        executed.add(node.get_friendly_name())
        dtype = _computes_with(about, rounds=rounds)
        names = (node.get_friendly_name(), *about.get("originalLayersNames", "").split(","))
        found.append(
            PlacedOperator(
                name=node.get_friendly_name(),
                operator=about["layerType"],
                dtype=dtype,
                reason=reasons.why(names) if dtype.startswith("float") else None,
            )
        )
    return tuple(operator for operator in found if operator.operator not in _NOT_EXECUTED)


def _runs(node: Foreign, about: dict[str, str], executed: set[str]) -> bool:
    """Says whether a node runs in every inference: constants are worked out on loading."""
    if about["layerType"] == "Input":
        return True
    sources = (value.get_node().get_friendly_name() for value in node.input_values())
    return any(name in executed for name in sources)


def _computes_with(about: dict[str, str], *, rounds: bool) -> str:
    """Returns the type that a node computes with, by numpy's name."""
    precision, kernel = about["runtimePrecision"], about["primitiveType"]
    if about["layerType"] == "FullyConnected" and precision in _STORED:
        # Of a product with stored weights the precision is that of the weights.
        return "int8" if rounds or kernel.lower().endswith("_i8") else "float32"
    return _NAMES.get(precision, precision)
