"""What of a graph's weights is stored in few bits, and how each is found again in a file.

The converter gets weights as float32 and lays them out as its kernels want them. So a constant of
a file is compared with every stored weight of its size, in every order of the axes; codes and
scales are then taken along in the order that fits. Nothing is matched by name: the converter
keeps none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.access import attribute, constant
from trimtab.graph.precision import may_round_activations

Array = NDArray[Any]

_PROBE = 64
"""Elements that are compared before all are."""


@dataclass(frozen=True)
class StoredWeight:
    """A weight, element by element, in one layout.

    Attributes:
        name: Of the initializer.
        real: What the graph computes with, float32.
        codes: As stored: integers, or float16 or bfloat16.
        scales: Of `real`'s shape, float32; None for floats.
        zeros: Of `real`'s shape, the codes that stand for zero; None for floats.
        dynamic: Whether activations may be rounded where this weight is used.
    """

    name: str
    real: Array
    codes: Array
    scales: Array | None
    zeros: Array | None
    dynamic: bool

    def __getitem__(self, index: Any) -> StoredWeight:
        """Returns a part of the weight."""
        return self._each(lambda array: array[index])

    def reshaped(self, shape: tuple[int, ...]) -> StoredWeight:
        """Returns the weight in another shape."""
        return self._each(lambda array: array.reshape(shape))

    def transposed(self, order: tuple[int, ...]) -> StoredWeight:
        """Returns the weight with its axes in another order."""
        return self._each(lambda array: array.transpose(order))

    def _each(self, change: Any) -> StoredWeight:
        return StoredWeight(
            name=self.name,
            real=change(self.real),
            codes=change(self.codes),
            scales=None if self.scales is None else change(self.scales),
            zeros=None if self.zeros is None else change(self.zeros),
            dynamic=self.dynamic,
        )


class StoredWeights:
    """The stored weights of a graph, to be asked which of them a file's constant is."""

    def __init__(self, model: ir.Model) -> None:
        self._by_size: dict[int, list[StoredWeight]] = {}
        for node in model.graph:
            for weight in _weights(node):
                self._by_size.setdefault(weight.real.size, []).append(weight)

    def __bool__(self) -> bool:
        return bool(self._by_size)

    def find(self, array: Array, *, within: Array | float = 0.0) -> StoredWeight | None:
        """Returns the weight with the numbers of a float32 array, laid out as they are there.

        Args:
            array: A constant of the file.
            within: How far it may be off; broadcasts to `array`.
        """
        tolerance = np.broadcast_to(np.float32(within), array.shape).reshape(-1)
        for weight in self._by_size.get(array.size, ()):
            found = _laid_out_as(weight, array, tolerance)
            if found is not None:
                return found
        return None


def _weights(node: ir.Node) -> Iterator[StoredWeight]:
    """Yields what one node gives of a stored weight: as it is, and as its readers cut it."""
    if node.op_type == "DequantizeLinear":
        weight = _dequantized(node)
    elif node.op_type == "Cast":
        weight = _cast(node)
    else:
        return
    if weight is None or weight.real.size < 2:
        return
    yield weight
    for use in node.outputs[0].uses():
        if use.node.op_type == "Reshape":
            shape = use.node.outputs[0].shape
            if shape is not None and all(isinstance(dim, int) for dim in shape):
                yield weight.reshaped(tuple(int(dim) for dim in shape))  # type: ignore[arg-type]
        elif use.node.op_type in {"LSTM", "GRU", "RNN"} and use.idx in {1, 2}:
            yield from _recurrent_parts(weight, use.node.op_type)


def _recurrent_parts(weight: StoredWeight, operator: str) -> Iterator[StoredWeight]:
    """Yields each direction, and of a GRU's also gates and candidate, which meet different states.

    Weights are `[directions, gates * hidden, inputs]`.
    """
    for direction in range(weight.real.shape[0]):
        part = weight[direction]
        yield part
        if operator == "GRU":
            hidden = part.real.shape[0] // 3
            yield part[: 2 * hidden]
            yield part[2 * hidden :]


def _dequantized(node: ir.Node) -> StoredWeight | None:
    codes, scale = constant(node.inputs[0]), constant(node.inputs[1])
    if codes is None or scale is None or scale.dtype != np.float32:
        return None
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    zero = np.zeros(scale.shape, np.int16) if zero is None else zero
    scales, zeros = (_spread(node, values, codes.shape) for values in (scale, zero))
    # In this order and precision, as the engine computes it: the results must be the same bits.
    real = (codes.astype(np.float32) - zeros.astype(np.float32)) * scales
    return StoredWeight(
        name=str(node.inputs[0].name if node.inputs[0] is not None else None),
        real=real,
        codes=codes,
        scales=scales,
        zeros=zeros,
        dynamic=may_round_activations(node),
    )


def _cast(node: ir.Node) -> StoredWeight | None:
    codes = constant(node.inputs[0])
    if codes is None or codes.dtype.name not in {"float16", "bfloat16"}:
        return None
    name = str(node.inputs[0].name if node.inputs[0] is not None else None)
    return StoredWeight(
        name=name,
        real=codes.astype(np.float32),
        codes=codes,
        scales=None,
        zeros=None,
        dynamic=False,
    )


def _spread(node: ir.Node, values: Array, shape: tuple[int, ...]) -> Array:
    """Repeats scales or zero points to the shape of what they belong to."""
    axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
    if values.size == 1:
        return np.broadcast_to(values.reshape(()), shape)
    axis %= len(shape)
    if block:
        repeated = np.repeat(values, block, axis)
        return np.take(repeated, range(shape[axis]), axis)
    along = [1] * len(shape)
    along[axis] = -1
    return np.broadcast_to(values.reshape(along), shape)


def _laid_out_as(weight: StoredWeight, array: Array, tolerance: Array) -> StoredWeight | None:
    """Returns the weight in the order of axes in which its numbers are the array's, if any."""
    wide = [axis for axis, size in enumerate(weight.real.shape) if size > 1]
    sizes = [size for size in array.shape if size > 1]
    flat = array.reshape(-1)
    for order in permutations(wide):
        moved = [weight.real.shape[axis] for axis in order]
        # The converter flattens what a dense layer sums over; then only the product is the same.
        if moved != sizes and not _groups_to(moved, sizes):
            continue
        full = (*(axis for axis in range(weight.real.ndim) if axis not in order), *order)
        real = weight.real.transpose(full)
        first = np.abs(_first(real) - flat[:_PROBE]) <= tolerance[:_PROBE]
        if first.all() and (np.abs(real.reshape(-1) - flat) <= tolerance).all():
            return weight.transposed(full).reshaped(array.shape)
    return None


def _first(array: Array) -> Array:
    return np.fromiter(array.flat, array.dtype, count=min(_PROBE, array.size))


def _groups_to(fine: list[int], coarse: list[int]) -> bool:
    """Says whether neighbouring sizes multiply to the coarser ones."""
    rest = list(fine)
    for size in coarse:
        product = 1
        while rest and product < size:
            product *= rest.pop(0)
        if product != size:
            return False
    return not rest or prod(rest) == 1
