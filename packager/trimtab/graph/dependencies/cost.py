"""What a graph would cost with some channels gone, without building it.

A layer's multiply-accumulates, an initializer's elements and a tensor's bytes are each a product of
lengths, and dropping channels shortens some of those lengths. So each is a *term*: an amount, and
the axes it is proportional to. A sum of terms is exact, and thousands of choices can be compared
in the time it takes to cut one graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import attribute, constant, shape_of
from trimtab.graph.count import count_model
from trimtab.graph.dependencies.groups import Axis, Dependencies
from trimtab.graph.dependencies.labels import is_parameter, name_of


@dataclass(frozen=True)
class Term:
    """An amount that is proportional to the lengths of some axes."""

    amount: float
    axes: tuple[Axis, ...]


class Cost:
    """The sum of some terms, as a function of what is dropped.

    Args:
        dependencies: What was found in the graph.
        terms: Its terms, for the whole graph.
    """

    def __init__(self, dependencies: Dependencies, terms: Iterable[Term]) -> None:
        axes: dict[Axis, int] = {}
        self._amounts, rows = [], []
        for term in terms:
            free = [axis for axis in term.axes if axis in dependencies.axes]
            rows.append([axes.setdefault(axis, len(axes)) for axis in free])
            self._amounts.append(term.amount)
        self._axes_of_terms = rows
        classes = max((c for group in dependencies.groups for c in group.classes), default=0)
        # The share of each axis that each class holds.
        self._shares = np.zeros((len(axes), classes + 1))
        for axis, row in axes.items():
            roots = dependencies.axes[axis]
            self._shares[row] = np.bincount(roots, minlength=classes + 1) / len(roots)

    def of(self, dropped: Iterable[int]) -> float:
        """Return the cost without some classes of channels."""
        left = 1 - self._shares[:, list(dropped)].sum(axis=1)
        return float(
            sum(
                amount * left[rows].prod()
                for amount, rows in zip(self._amounts, self._axes_of_terms, strict=True)
            )
        )


def mac_terms(model: ir.Model) -> list[Term]:
    """Return the multiply-accumulates of a batch of one, as `count_model` counts them."""
    counts = {layer.name: layer.macs or 0 for layer in count_model(model).layers}
    terms = []
    for node in model.graph:
        macs = counts.get(node.name or name_of(node.outputs[0]))
        if macs:
            terms += _layer_terms(node, macs)
    return terms


def parameter_terms(model: ir.Model) -> list[Term]:
    """Return the elements of all floating-point initializers."""
    terms = []
    for value in model.graph.initializers.values():
        array = constant(value)
        if array is not None and array.dtype.kind == "f" and value.uses():
            terms.append(Term(array.size, _all_axes(value)))
    return terms


def traffic_terms(model: ir.Model) -> list[Term]:
    """Return the elements that the layers read and write: inputs, weights and outputs, once each.

    Only what does multiply-accumulates counts: runtimes fuse the element-wise operators around it.
    Values with free lengths beside the batch are left out.
    """
    names = {layer.name for layer in count_model(model).layers if layer.macs}
    terms = []
    for node in model.graph:
        if (node.name or name_of(node.outputs[0])) not in names:
            continue
        for value in (*node.inputs, *node.outputs):
            shape = shape_of(value)
            if value is None or not value.name or not shape:
                continue
            sizes = shape if is_parameter(value) else shape[1:]
            known = [size for size in sizes if size is not None]
            if len(known) == len(sizes):
                terms.append(Term(prod(known), _all_axes(value)))
    return terms


_RECURRENT = {"LSTM", "GRU", "RNN"}


def _layer_terms(node: ir.Node, macs: int) -> list[Term]:
    """Say what a layer's multiply-accumulates are proportional to."""
    inputs = [value for value in node.inputs[:3] if value is not None]
    if node.op_type in _RECURRENT:
        # Each step multiplies with all of both matrices.
        weights = inputs[1:3]
        sizes = [_size(value) for value in weights]
        return [
            Term(macs * size / max(sum(sizes), 1), _all_axes(value))
            for value, size in zip(weights, sizes, strict=True)
        ]
    if node.op_type == "ConvTranspose":
        return [Term(macs, (*_all_axes(inputs[0]), (name_of(inputs[1]), 1)))]
    return [Term(macs, (*_all_axes(node.outputs[0]), *_summed_axes(node, *inputs[:2])))]


def _summed_axes(node: ir.Node, left: ir.Value, right: ir.Value) -> list[Axis]:
    """Return what a convolution or product sums over, of the one operand that tells it."""
    if node.op_type == "Conv":
        return _axes(right, range(1, len(right.shape or ())))
    if is_parameter(right):
        rows = 1 if node.op_type == "Gemm" and attribute(node, "transB", 0) else -2
        return _axes(right, [rows])
    return _axes(left, [-1])


def _axes(value: ir.Value, axes: Iterable[int]) -> list[Axis]:
    return [(name_of(value), axis % len(value.shape or ())) for axis in axes]


def _size(value: ir.Value) -> int:
    array = constant(value)
    return 0 if array is None else int(array.size)


def _all_axes(value: ir.Value) -> tuple[Axis, ...]:
    return tuple((name_of(value), axis) for axis in range(len(value.shape or ())))
