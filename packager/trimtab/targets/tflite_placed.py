"""What the operators of a `.tflite` file compute with, read off the file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from trimtab.graph.precision import has_integer_activations
from trimtab.targets.placed import PlacedOperator
from trimtab.targets.tflite_flatbuffer import operator_name, text, type_name, unpack

_FLOAT = "float32"

_WEIGHTED = frozenset(
    {"BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
)

_INT8_KERNELS = _WEIGHTED | {
    "ABS", "ADD", "ARG_MAX", "ARG_MIN", "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "CONCATENATION",
    "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER", "GATHER_ND", "HARD_SWISH", "L2_NORMALIZATION",
    "LEAKY_RELU", "LOGISTIC", "LOG_SOFTMAX", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM",
    "MIRROR_PAD", "MUL", "PACK", "PAD", "PADV2", "PRELU", "REDUCE_MAX", "REDUCE_MIN", "RELU",
    "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "RSQRT",
    "SLICE", "SOFTMAX", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V",
    "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TILE", "TRANSPOSE",
    "UNPACK",
}  # fmt: skip
"""Operators that TFLite has for int8 (tensorflow/lite/g3doc, 8-bit quantization specification, and
the registrations in lite/kernels/register.cc)."""


def placed(path: Path, model: ir.Model) -> tuple[PlacedOperator, ...]:
    """Lists the operators of a file that run, in their order; see `Placer`.

    A kernel of float activations and integer weights that it reads directly computes in the
    weights' type: it rounds the activations itself. A DEQUANTIZE of a constant runs once.

    Args:
        path: The file.
        model: The graph that it was written from.
    """
    file = unpack(path.read_bytes())
    explained = has_integer_activations(model)
    return tuple(
        _place(_View(file, graph), operator, explained=explained)
        for graph in file.subgraphs
        for operator in graph.operators or ()
    )


class _View:
    """A subgraph, asked for what is around its operators."""

    def __init__(self, file: Any, graph: Any) -> None:
        self._file, self._graph = file, graph

    def name(self, operator: Any) -> str:
        return operator_name(self._file, operator)

    def output_name(self, operator: Any) -> str:
        names = [text(self._graph.tensors[number].name) for number in operator.outputs]
        return names[0] if names else ""

    def is_output(self, operator: Any) -> bool:
        return any(number in set(self._graph.outputs) for number in operator.outputs)

    def types(self, operator: Any) -> tuple[list[str], list[str], list[str]]:
        """Returns the element types of an operator's activations, constants and outputs."""
        inputs = [self._graph.tensors[number] for number in operator.inputs if number >= 0]
        moving = [type_name(tensor) for tensor in inputs if not self._is_constant(tensor)]
        fixed = [type_name(tensor) for tensor in inputs if self._is_constant(tensor)]
        return moving, fixed, [type_name(self._graph.tensors[i]) for i in operator.outputs]

    def writers(self, operator: Any) -> set[str]:
        """Returns the operators that write what an operator reads."""
        read = {int(number) for number in operator.inputs}
        return {
            self.name(other)
            for other in self._graph.operators
            if any(int(number) in read for number in other.outputs)
        }

    def readers(self, operator: Any) -> set[str]:
        """Returns the operators that read what an operator writes."""
        written = {int(number) for number in operator.outputs}
        return {
            self.name(other)
            for other in self._graph.operators
            if any(int(number) in written for number in other.inputs)
        }

    def _is_constant(self, tensor: Any) -> bool:
        data = self._file.buffers[tensor.buffer].data
        return data is not None and len(data) > 0


def _place(view: _View, operator: Any, *, explained: bool) -> PlacedOperator:
    name, dtype = view.name(operator), _dtype(view, operator)
    is_float = dtype == _FLOAT and name not in {"QUANTIZE", "DEQUANTIZE"}
    return PlacedOperator(
        name=view.output_name(operator),
        operator=name,
        dtype=dtype,
        reason=_reason(view, operator) if explained and is_float else None,
    )


def _dtype(view: _View, operator: Any) -> str:
    moving, fixed, written = view.types(operator)
    narrow = [kind for kind in fixed if kind in {"int8", "int4", "int2"}]
    if view.name(operator) == "DEQUANTIZE":
        return (moving + fixed)[0]
    if view.name(operator) in _WEIGHTED and narrow:
        return moving[0] if moving and moving[0] != _FLOAT else narrow[0]
    return next(iter([*written, *moving, *fixed]), "none")


def _reason(view: _View, operator: Any) -> str:
    name = view.name(operator)
    if name not in _INT8_KERNELS:
        return f"TFLite has no int8 kernel of {name}"
    if name == "HARD_SWISH":
        return "XNNPACK has it in float only, and faster than TFLite's own int8 kernel"
    if name in _WEIGHTED:
        return "the recipe leaves this layer in float, or its weights are computed"
    if name in {"SOFTMAX", "LOGISTIC", "LOG_SOFTMAX"} and view.is_output(operator):
        return "an output in float keeps the probabilities' digits"
    around = (view.writers(operator) | view.readers(operator)) - {"QUANTIZE", "DEQUANTIZE"}
    beside = ", ".join(sorted(around))
    if beside:
        return f"it stands beside float operators ({beside}): in int8 it would need conversions"
    return "no layer with int8 weights reads or writes it"
