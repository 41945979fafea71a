"""What layers multiply their weights with: the second moments of their inputs, from samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trimtab.compress.weights import Weight
from trimtab.graph.access import attribute
from trimtab.graph.run import GraphRunner
from trimtab.progress import track

Array = NDArray[Any]

_BATCH = 8
_MOST_ROWS = 512
"""Of a batch's windows of a convolution, so many are taken: neighbours are much alike."""
_MOST_INPUTS = 4096
"""A layer with more inputs is left out: the inverse of its moments would take minutes."""


def input_moments(
    model: ir.Model, weights: Sequence[Weight], samples: Sequence[Array]
) -> Mapping[str, Array]:
    """Returns sums of products of each layer's inputs, over samples.

    Args:
        model: The float model.
        weights: Some of its weights.
        samples: One array per input of the model.

    Returns:
        By the name of the weight an array of the shape (groups, inputs, inputs), float64. Inputs
        are in the order of the weight's own axes. Layers other than convolutions and products of
        an activation with a matrix are left out.
    """
    usable = [weight for weight in weights if _is_usable(weight)]
    sources = {weight.name: str(weight.node.inputs[0].name) for weight in usable}  # type: ignore[union-attr]
    moments: dict[str, Array] = {}
    starts = range(0, len(samples[0]), _BATCH)
    observe = _Observer(model, sorted(set(sources.values())))
    for start in track(starts, "measuring inputs of layers", len(starts)):
        seen = observe([array[start : start + _BATCH] for array in samples])
        for weight in usable:
            rows = _rows(weight, seen[sources[weight.name]])
            own = np.matmul(rows.transpose(0, 2, 1), rows)
            moments[weight.name] = moments.get(weight.name, 0) + own.astype(np.float64)
    return moments


class _Observer:
    """Runs a model and returns named activations."""

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        self._inputs = [str(value.name) for value in model.graph.inputs]
        observed = model.clone()
        made = {value.name: value for node in observed.graph for value in node.outputs}
        self._made = [name for name in names if name in made]
        observed.graph.outputs[:] = [made[name] for name in self._made]
        self._runner = GraphRunner(observed) if self._made else None

    def __call__(self, arrays: Sequence[Array]) -> dict[str, Array]:
        found = dict(zip(self._inputs, arrays, strict=True))
        if self._runner is not None:
            found |= zip(self._made, self._runner.run(arrays), strict=True)
        return found


def _is_usable(weight: Weight) -> bool:
    node, rank = weight.node, weight.array.ndim
    if node.inputs[0] is None or node.inputs[1] is not weight.value:
        return False
    if node.op_type == "Conv":
        return weight.array[0].size <= _MOST_INPUTS and _explicit_pads(node)
    plain = node.op_type == "MatMul" or not attribute(node, "transA", 0)
    return (
        node.op_type in {"Gemm", "MatMul"}
        and rank == 2
        and plain
        and (weight.array.shape[weight.inner[0]] <= _MOST_INPUTS)
    )


def _explicit_pads(node: ir.Node) -> bool:
    return attribute(node, "auto_pad", "NOTSET") in {"NOTSET", "VALID"}


def _rows(weight: Weight, activation: Array) -> Array:
    """Returns the vectors that a layer multiplies, shape (groups, vectors, inputs)."""
    activation = np.asarray(activation, np.float32)
    if weight.node.op_type != "Conv":
        return _some(activation.reshape(1, -1, activation.shape[-1]))
    node, kernel = weight.node, weight.array.shape[2:]
    axes = len(kernel)
    pads = attribute(node, "pads", [0] * 2 * axes)
    strides = attribute(node, "strides", [1] * axes)
    dilations = attribute(node, "dilations", [1] * axes)
    groups = attribute(node, "group", 1)
    padded = np.pad(activation, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    extents = [(length - 1) * step + 1 for length, step in zip(kernel, dilations, strict=True)]
    windows = sliding_window_view(padded, extents, axis=tuple(range(2, 2 + axes)))
    # What is left out here is never copied: windows of large images take gigabytes.
    positions = len(activation) * prod(windows.shape[2 : 2 + axes]) // prod(strides)
    further = ceil((positions / _MOST_ROWS) ** (1 / axes)) if positions > _MOST_ROWS else 1
    spread = [slice(None, None, step * further) for step in strides]
    inside = [slice(None, None, step) for step in dilations]
    windows = windows[(slice(None), slice(None), *spread, *inside)]
    # From (samples, channels, positions.., kernel..) to (positions, channels, kernel).
    moved = np.moveaxis(windows, 1, 1 + axes)
    flat = moved.reshape(prod(moved.shape[: 1 + axes]), groups, -1)
    return flat.transpose(1, 0, 2)


def _some(rows: Array) -> Array:
    """Returns evenly spread vectors, not more than are needed."""
    step = -(-rows.shape[1] // _MOST_ROWS)
    return rows[:, ::step]
