"""Takes the mean error of rounded weights out of the biases.

Rounding weights `W` to `W + e` shifts the mean of a layer's outputs by `E[e * x]`, and the shifts
of many layers add up. The mean is measured per output channel and subtracted from the bias (Nagel
et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
arXiv:1906.04721, section 4.2). Here it is measured on the calibration samples with the float
model's activations: beside each layer runs a twin with the weights `e`, so that padding, strides
and groups are what they are. With every layer corrected its input has its float mean again, so one
pass over the samples serves all layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from trimtab.compress.calibrate import Samples, observe
from trimtab.compress.placement import KERNEL_OPERATORS
from trimtab.graph.access import add_initializer, constant
from trimtab.graph.dequantize import stored_floats


def correct_biases(quantized: ir.Model, model: ir.Model, samples: Samples) -> None:
    """Subtracts the mean error of each layer's weights from its bias, in place.

    Args:
        quantized: The graph with int8 weights; layers without an int32 bias stay as they are.
        model: The float graph that it was made of, with the same node names. It is only read.
        samples: As for `calibrate`.

    Raises:
        DataError: The samples do not fit the inputs.
    """
    probed = model.clone()
    common.RemoveUnusedNodesPass()(probed)
    layers = {}
    for node, made in zip(_kernels(probed), _kernels(quantized), strict=True):
        if _has_stored_bias(made):
            layers[_add_twin(node, made)] = made
    for name, shift in _channel_means(probed, samples, list(layers)).items():
        _subtract(layers[name], shift)


def _kernels(model: ir.Model) -> list[ir.Node]:
    """Lists what multiplies with weights: the same in a graph and in its quantized form."""
    return [node for node in model.graph if node.op_type in KERNEL_OPERATORS and not node.domain]


def _has_stored_bias(node: ir.Node) -> bool:
    if node.op_type not in KERNEL_OPERATORS or node.op_type == "MatMul" or len(node.inputs) < 3:
        return False
    return all(_stored(node, index) is not None for index in (1, 2))


def _stored(node: ir.Node, index: int) -> ir.Node | None:
    """Gives the DequantizeLinear of a stored constant that a node reads."""
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    return producer if constant(producer.inputs[0]) is not None else None


def _add_twin(node: ir.Node, made: ir.Node) -> str:
    """Gives a layer a twin whose weights are the errors; returns the name of its output."""
    graph, weights, to_real = node.graph, constant(node.inputs[1]), _stored(made, 1)
    assert isinstance(graph, ir.Graph)
    assert weights is not None
    assert to_real is not None
    name = f"{node.outputs[0].name}_shift"
    error = add_initializer(graph, f"{name}_error", stored_floats(to_real) - weights)
    nodes = [ir.node(node.op_type, [node.inputs[0], error], dict(node.attributes))]
    if node.op_type != "Gemm":
        nodes.append(ir.node("GlobalAveragePool", nodes[0].outputs))
    nodes[-1].outputs[0].name = name
    graph.insert_after(node, nodes)
    return name


def _channel_means(
    probed: ir.Model, samples: Samples, twins: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Averages each twin's output over the samples."""
    sums: dict[str, NDArray[np.float64]] = {}
    counts = dict.fromkeys(twins, 0)
    for batch in observe(probed, samples, twins)():
        for name, array in batch.items():
            rows = array.reshape(*array.shape[:2]).astype(np.float64)
            sums[name] = sums.get(name, 0) + rows.sum(axis=0)
            counts[name] += len(rows)
    return {name: total / counts[name] for name, total in sums.items()}


def _subtract(node: ir.Node, shift: NDArray[np.float64]) -> None:
    to_real = _stored(node, 2)
    assert to_real is not None
    value, scale = to_real.inputs[0], constant(to_real.inputs[1])
    codes = constant(value)
    assert value is not None
    assert codes is not None
    assert scale is not None
    corrected = codes - np.rint(shift / scale)
    limits = np.iinfo(codes.dtype)
    value.const_value = ir.tensor(
        np.clip(corrected, limits.min, limits.max).astype(codes.dtype), name=value.name
    )
