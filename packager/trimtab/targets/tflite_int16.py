"""Mends what TensorFlow's converter (2.21) gets wrong in files with int16 activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.targets.tflite_flatbuffer import add_buffer, contents, operator_name, type_name

_BIASED = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""Where each kernel reads its bias."""


_UNIT_SCALE = 2.0**-15


def center_gates(file: Any) -> None:
    """Gives int16 outputs of LOGISTIC, and parts of them, steps of 1/32768 around zero, in place.

    The converter gives them steps of 1/65536 above -32768, which kernels refuse
    (tensorflow/lite/kernels/activations.cc, mul.cc). Other int16 tensors have no zero point.

    Args:
        file: A `ModelT`.
    """
    for tensor in (tensor for graph in file.subgraphs for tensor in graph.tensors):
        grid = tensor.quantization
        if type_name(tensor) != "int16" or grid is None or grid.zeroPoint is None:
            continue
        if list(grid.zeroPoint) == [-(2**15)]:
            grid.scale, grid.zeroPoint = [_UNIT_SCALE], [0]


def widen_biases(file: Any) -> None:
    """Makes the biases of int16 kernels int64, in place.

    Sums of products of 16 and 8 bits do not fit into 32 bits, and the kernels ask for biases of
    64 (tensorflow/lite/kernels/depthwise_conv.cc). A depthwise convolution without a bias gets
    one of 32-bit zeros from the converter, and the file does not load.

    Args:
        file: A `ModelT`.
    """
    from ai_edge_litert import schema_py_generated as schema

    for graph in file.subgraphs:
        for operator in graph.operators:
            position = _BIASED.get(operator_name(file, operator), len(operator.inputs))
            if position >= len(operator.inputs) or operator.inputs[position] < 0:
                continue
            bias = graph.tensors[operator.inputs[position]]
            if (
                type_name(graph.tensors[operator.outputs[0]]) == "int16"
                and type_name(bias) == "int32"
            ):
                bias.buffer = add_buffer(file, contents(file, bias, np.int32).astype(np.int64))
                bias.type = schema.TensorType.INT64
