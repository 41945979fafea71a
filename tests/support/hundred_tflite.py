"""TFLite files of dense layers, written from their weights without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from support.tflite_files import write
from trimtab.targets.tflite_flatbuffer import add_buffer, operator_code

Array = npt.NDArray[Any]
_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}


class _File:
    """A file of fully connected layers in the making."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph.tensors, self.graph.operators = [], []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        data: Array | None = None,
        *,
        dtype: Any = np.float32,
        scale: float | None = None,
        zero: int = 0,
    ) -> int:
        """Adds a tensor, constant if it has data; returns its number."""
        made = schema.TensorT()
        made.name, made.shape, made.hasRank = name, list(shape), True
        made.buffer = 0 if data is None else add_buffer(self.model, data)
        made.type = _TYPES[np.dtype(dtype if data is None else data.dtype)]
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero]
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def dense(self, inputs: list[int], output: int, *, relu: bool = False) -> None:
        operator = schema.OperatorT()
        code = schema.BuiltinOperator.FULLY_CONNECTED
        operator.opcodeIndex = operator_code(self.model, code, 4 if len(inputs) > 2 else 1)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        options = schema.FullyConnectedOptionsT()
        kinds = schema.ActivationFunctionType
        options.fusedActivationFunction = kinds.RELU if relu else kinds.NONE
        operator.builtinOptions = options
        self.graph.operators.append(operator)

    def finish(self, entry: int, leave: int) -> bytes:
        self.graph.inputs, self.graph.outputs = [entry], [leave]
        self.model.subgraphs = [self.graph]
        return write(self.model)


def layers_float(weights: Mapping[str, Array]) -> bytes:
    """Dense layers `w0`, `b0`, `w1`, ... with ReLU between them."""
    file, last = _File(), sum(name.startswith("w") for name in weights) - 1
    entry = value = file.tensor("x", (1, len(weights["w0"])))
    for index in range(last + 1):
        matrix, bias = weights[f"w{index}"], weights[f"b{index}"]
        made = file.tensor("y" if index == last else f"h{index}", (1, len(bias)))
        constants = [
            file.tensor(f"w{index}", matrix.T.shape, np.ascontiguousarray(matrix.T)),
            file.tensor(f"b{index}", bias.shape, bias),
        ]
        file.dense([value, *constants], made, relu=index < last)
        value = made
    return file.finish(entry, value)


def dense_int8(weights: Mapping[str, Array]) -> bytes:
    """One int8 layer with int8 at its edges."""
    file = _File()
    matrix = np.ascontiguousarray(weights["w"].T)
    x_scale, w_scale = float(weights["x_scale"]), float(weights["w_scale"])
    entry = file.tensor(
        "x", (1, matrix.shape[1]), dtype=np.int8, scale=x_scale, zero=int(weights["x_zero"])
    )
    leave = file.tensor(
        "y",
        (1, len(matrix)),
        dtype=np.int8,
        scale=float(weights["y_scale"]),
        zero=int(weights["y_zero"]),
    )
    bias = np.zeros(len(matrix), np.int32)
    constants = [
        file.tensor("w", matrix.shape, matrix, scale=w_scale),
        file.tensor("b", bias.shape, bias, scale=x_scale * w_scale),
    ]
    file.dense([entry, *constants], leave)
    return file.finish(entry, leave)
