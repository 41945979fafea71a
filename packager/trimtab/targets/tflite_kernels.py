"""Weights of int8 and int16 kernels, as the graph has them.

The converter gets a graph's weights as float32 and quantizes them itself: symmetrically, with one
scale for each output channel. Where that is not how the graph stores them (one scale for a matrix,
fewer bits, a channel whose scale was widened for its bias), it rounds a second time. Here the
graph's codes and scales are put back, and the biases into the unit that belongs to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.targets.tflite_codes import Codes, signed_codes
from trimtab.targets.tflite_flatbuffer import (
    add_buffer,
    constants,
    contents,
    operator_name,
    type_name,
)
from trimtab.targets.tflite_stored import StoredWeights

_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}
_BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
_DATA = {"TRANSPOSE_CONV": 2}
"""Where kernels read the bias, and activations that do not come first."""

_HALF_STEP = 0.51
"""How far the converter's rounding moves a weight, in its own steps."""


def restore_weights(file: Any, model: ir.Model) -> None:
    """Gives integer kernels the codes and scales of the graph, in place.

    Args:
        file: A `ModelT`.
        model: The graph with quantized activations that it was converted from.
    """
    weights = StoredWeights(model)
    for graph in file.subgraphs if weights else ():
        for index, tensor in list(constants(file, graph)):
            readers = [o for o in graph.operators if index in list(o.inputs)]
            if type_name(tensor) == "int8" and all(_is_kernel(file, o, index) for o in readers):
                _restore(file, graph, index, readers, weights)


def _is_kernel(file: Any, operator: Any, index: int) -> bool:
    return operator_name(file, operator) in _CHANNEL_AXIS and operator.inputs[1] == index


def _restore(file: Any, graph: Any, index: int, readers: list[Any], weights: StoredWeights) -> None:
    tensor = graph.tensors[index]
    values = contents(file, tensor, np.int8)
    old = _along(tensor, values.ndim)
    found = weights.find(values * old, within=_HALF_STEP * old)
    codes = None if found is None else signed_codes(found)
    if codes is None or not _fits(file, readers, codes):
        return
    tensor.buffer = add_buffer(file, codes.values)
    tensor.quantization.scale, tensor.quantization.zeroPoint = codes.scales, codes.zeros
    tensor.quantization.quantizedDimension = codes.axis
    for operator in readers:
        _rescale_bias(file, graph, operator, codes.scales)


def _fits(file: Any, readers: list[Any], codes: Codes) -> bool:
    one = len(codes.scales) == 1
    axes = {_CHANNEL_AXIS[operator_name(file, operator)] for operator in readers}
    return codes.symmetric and codes.block is None and (one or axes == {codes.axis})


def _along(tensor: Any, rank: int) -> NDArray[np.float32]:
    """Returns a tensor's scales as they broadcast to it."""
    scales = np.asarray(tensor.quantization.scale, np.float32)
    shape = [1] * rank
    shape[tensor.quantization.quantizedDimension if len(scales) > 1 else 0] = -1
    return scales.reshape(shape)


def _rescale_bias(file: Any, graph: Any, operator: Any, scales: NDArray[np.float32]) -> None:
    """Writes a bias in units of input scale times weight scale, which the kernel takes it to be."""
    name = operator_name(file, operator)
    if len(operator.inputs) <= _BIAS[name] or operator.inputs[_BIAS[name]] < 0:
        return
    number = operator.inputs[_BIAS[name]]
    data = graph.tensors[operator.inputs[_DATA.get(name, 0)]]
    unit = (np.asarray(data.quantization.scale, np.float32) * scales).astype(np.float32)
    bias = graph.tensors[number]
    kind = np.dtype(type_name(bias))
    old = np.asarray(bias.quantization.scale, np.float64)
    codes = np.rint(contents(file, bias, kind) * (old / unit)).astype(kind)
    bias.buffer = add_buffer(file, codes)
    bias.quantization.scale, bias.quantization.zeroPoint = unit, np.zeros(unit.shape, np.int64)
