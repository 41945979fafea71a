"""HardSwish in float inside of int8 files.

XNNPACK has HARD_SWISH in float only. In int8 each one hands the values back to TFLite, whose
kernel is slow on x86-64, and cuts the graph in two. Between DEQUANTIZE and QUANTIZE the whole graph
runs in XNNPACK: a MobileNetV3 for lines of text (192 x 48, 18 of these, one thread, AMD EPYC) took
2,150 us before, 525 to 600 us so, and 570 us in float. The values are nearer to the graph's, too.
"""

from __future__ import annotations

import copy
from typing import Any

from trimtab.targets.tflite_flatbuffer import operator_code, operator_name, text, type_name

_DEQUANTIZE_INT8_VERSION = 2
_QUANTIZE_VERSION = 1


def compute_hard_swish_in_float(file: Any) -> None:
    """Puts a conversion on each side of every int8 HARD_SWISH, in place.

    Args:
        file: A `ModelT`.
    """
    for graph in file.subgraphs:
        graph.operators = [
            step
            for operator in graph.operators
            for step in (
                _between_conversions(file, graph, operator)
                if _is_int8_hard_swish(file, graph, operator)
                else [operator]
            )
        ]


def _is_int8_hard_swish(file: Any, graph: Any, operator: Any) -> bool:
    if operator_name(file, operator) != "HARD_SWISH":
        return False
    return type_name(graph.tensors[operator.inputs[0]]) == "int8"


def _between_conversions(file: Any, graph: Any, operator: Any) -> list[Any]:
    from ai_edge_litert import schema_py_generated as schema

    source, result = operator.inputs[0], operator.outputs[0]
    real, computed = (_float_tensor(graph, number) for number in (source, result))
    before, after = schema.OperatorT(), schema.OperatorT()
    kinds = schema.BuiltinOperator
    before.opcodeIndex = operator_code(file, kinds.DEQUANTIZE, _DEQUANTIZE_INT8_VERSION)
    after.opcodeIndex = operator_code(file, kinds.QUANTIZE, _QUANTIZE_VERSION)
    before.inputs, before.outputs = [source], [real]
    operator.inputs, operator.outputs = [real], [computed]
    after.inputs, after.outputs = [computed], [result]
    return [before, operator, after]


def _float_tensor(graph: Any, number: int) -> int:
    """Returns the number of a new tensor, a float copy of another."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = copy.copy(graph.tensors[number])
    tensor.name = f"{text(tensor.name)}/float"
    tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
