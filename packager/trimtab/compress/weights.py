"""The weights of a graph that techniques work on one by one, each seen as a matrix.

A row holds all that one output channel sums over, in the order in which kernels read it: for a
convolution the positions of its window, and at each of them the input channels, innermost. That
is how XNNPACK and cuSPARSELt lay weights out, so that runs and blocks along a row are runs and
blocks in their memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import ModelError
from trimtab.graph.access import attribute, constant

Array = NDArray[Any]


@dataclass(frozen=True)
class Weight:
    """A float32 initializer that an operator multiplies with.

    Attributes:
        value: The initializer.
        node: The first operator that reads it.
        rows: Axes that count what the operator makes, such as output channels.
        inner: Axes that it sums over, outermost first.
    """

    value: ir.Value
    node: ir.Node
    rows: tuple[int, ...]
    inner: tuple[int, ...]

    @property
    def name(self) -> str:
        """The initializer's name."""
        return str(self.value.name)

    @property
    def array(self) -> Array:
        """The values, float32, in ONNX's order of axes."""
        array = constant(self.value)
        assert array is not None, "only constants are listed"
        return array

    @property
    def inputs(self) -> int:
        """How many input channels a row holds side by side."""
        return int(self.array.shape[self.inner[-1]])

    def matrix(self, array: Array) -> Array:
        """Returns an array of the weight's shape as a matrix, shape (outputs, summed over)."""
        moved = array.transpose(*self.rows, *self.inner)
        return moved.reshape(prod(array.shape[axis] for axis in self.rows), -1)

    def unmatrix(self, matrix: Array) -> Array:
        """Returns a matrix in the weight's own order of axes: the way back of `matrix`."""
        order = (*self.rows, *self.inner)
        shape = self.array.shape
        return matrix.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def find_weights(model: ir.Model, *, tables: bool = False) -> list[Weight]:
    """Lists the weights of a float graph, each once, in the order of their first use.

    Args:
        model: The graph.
        tables: Whether to list what Gather reads rows of, such as embeddings. They are stored
            like other weights but never multiplied with.
    """
    found: dict[ir.Value, Weight] = {}
    for node in model.graph:
        for index, (rows, inner) in _axes(node).items():
            value = node.inputs[index]
            if value is None or value in found or (node.op_type == "Gather" and not tables):
                continue
            array = constant(value)
            if array is not None and array.dtype == np.float32 and array.size:
                found[value] = Weight(value, node, rows, inner)
    return list(found.values())


def require_weights(model: ir.Model, technique: str, *, tables: bool = False) -> list[Weight]:
    """Lists the weights like `find_weights`; there is at least one, and all are finite.

    Raises:
        ModelError: There are none, or one holds NaN or infinity; the message names it.
    """
    weights = find_weights(model, tables=tables)
    if not weights:
        operators = ", ".join(sorted({node.op_type for node in model.graph})) or "none"
        raise ModelError(
            f"{technique}: the model has no float32 weights that it works on (operators: "
            f"{operators}); weights that are quantized already come too late for this step"
        )
    for weight in weights:
        if not np.isfinite(weight.array).all():
            raise ModelError(f"{technique}: weight {weight.name!r} holds NaN or infinity")
    return weights


def counterparts(weights: Sequence[Weight], model: ir.Model) -> list[Weight]:
    """Returns the same weights, by name, in a copy of the model that they were found in."""
    by_name = {weight.name: weight for weight in find_weights(model, tables=True)}
    return [by_name[weight.name] for weight in weights]


def _axes(node: ir.Node) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns, for each input of a node that may be a weight, its row axes and inner axes."""
    if node.domain:
        return {}
    rank = _rank(node, 1)
    match node.op_type:
        case "Conv" if rank >= 3:
            return {1: ((0,), (*range(2, rank), 1))}
        case "ConvTranspose" if rank >= 3:
            return {1: ((1,), (*range(2, rank), 0))}
        case "Gemm" if rank == 2:
            return {1: ((0,), (1,)) if attribute(node, "transB", 0) else ((1,), (0,))}
        case "MatMul":
            return _matmul_axes(node)
        case "LSTM" | "GRU" | "RNN":
            # W is (directions, gates x hidden, inputs), R (directions, gates x hidden, hidden).
            return {1: ((0, 1), (2,)), 2: ((0, 1), (2,))}
        case "Gather" if _rank(node, 0) == 2 and attribute(node, "axis", 0) == 0:
            return {0: ((0,), (1,))}
        case _:
            return {}


def _matmul_axes(node: ir.Node) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns the axes of a constant on either side; leading axes are a batch of matrices."""
    axes: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    if (left := _rank(node, 0)) >= 2:
        axes[0] = (tuple(range(left - 1)), (left - 1,))
    if (right := _rank(node, 1)) >= 2:
        axes[1] = ((*range(right - 2), right - 1), (right - 2,))
    return axes


def _rank(node: ir.Node, index: int) -> int:
    """Returns the rank of a constant input, 0 if the input is computed or missing."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.const_value is None or value.producer() is not None:
        return 0
    return len(value.const_value.shape)
