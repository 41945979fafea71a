"""Int8 storage for weights whose operators compute in float: recurrent layers and tables.

Runtimes have no int8 kernel for a static LSTM, GRU or RNN that all three share, and a Gather
computes nothing. Their weights become int8 behind DequantizeLinear all the same, one scale for
each row of a gate or of a table: the file is as small as that of the layers that run in int8.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence

import onnx_ir as ir

from trimtab.compress.layer_patterns import matching_nodes
from trimtab.compress.quantize_weights import QuantizeWeights, quantize
from trimtab.compress.weights import find_weights

_STORED = frozenset({"LSTM", "GRU", "RNN", "Gather"})


def other_weights(model: ir.Model, keep_float: Sequence[str]) -> list[str]:
    """List the weights of recurrent layers and tables.

    Args:
        model: The float graph.
        keep_float: Patterns of layers to leave out.

    Raises:
        RecipeError: A pattern matches nothing.
    """
    kept = matching_nodes(model.graph, keep_float, "keep_float")
    return [
        weight.name
        for weight in find_weights(model, tables=True)
        if weight.node.op_type in _STORED and weight.node not in kept
    ]


def store_other_weights(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Store some weights as int8.

    Args:
        model: A graph whose other layers may be quantized already.
        names: The weights, as `other_weights` found them.

    Returns:
        A new model, or the same one where there is no such weight.
    """
    if not names:
        return model
    step = QuantizeWeights(bits=8, layers=tuple(glob.escape(name) for name in names))
    return quantize(model, step, {}, lambda _line: None)
