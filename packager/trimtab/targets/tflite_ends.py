"""Probabilities in float, as the graph has them."""

from __future__ import annotations

from typing import Any

from trimtab.targets.tflite_flatbuffer import operator_name, type_name

_FIXED_RANGE = frozenset({"LOGISTIC", "LOG_SOFTMAX", "SOFTMAX", "TANH"})
"""What the converter gives an int8 output of a range known beforehand, such as steps of 1/256."""


def compute_ends_in_float(file: Any) -> None:
    """Lets a Softmax or the like whose result is needed in float read float too, in place.

    The converter (TensorFlow 2.21) computes it in int8 and dequantizes its result, although the
    graph dequantizes the logits. The probabilities are then in steps of 1/256, and XNNPACK, which
    has no int8 Softmax, gives the operators behind it back to TFLite. The DEQUANTIZE moves in
    front of it; there are no more operators than before.

    Args:
        file: A `ModelT`.
    """
    for graph in file.subgraphs:
        for place, operator in enumerate(list(graph.operators)):
            if operator_name(file, operator) not in _FIXED_RANGE:
                continue
            follower = _only_reader(graph, operator.outputs[0])
            if follower is None or operator_name(file, follower) != "DEQUANTIZE":
                continue
            if type_name(graph.tensors[operator.inputs[0]]) in {"int8", "int16"}:
                _swap(graph, place, operator, follower)


def _only_reader(graph: Any, number: int) -> Any | None:
    readers = [operator for operator in graph.operators if number in list(operator.inputs)]
    return readers[0] if len(readers) == 1 and number not in list(graph.outputs) else None


def _swap(graph: Any, place: int, operator: Any, dequantize: Any) -> None:
    """Puts the DEQUANTIZE where the operator is, and the operator behind it."""
    source, between, result = operator.inputs[0], operator.outputs[0], dequantize.outputs[0]
    tensor = graph.tensors[between]
    tensor.type, tensor.quantization = graph.tensors[result].type, None
    dequantize.inputs, dequantize.outputs = [source], [between]
    operator.inputs, operator.outputs = [between], [result]
    graph.operators.remove(dequantize)
    graph.operators.insert(place, dequantize)
