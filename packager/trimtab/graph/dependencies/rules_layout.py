"""Rules of operators that move elements, cut and join tensors, or reduce axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import constant
from trimtab.graph.dependencies.atoms import FROZEN, LabelArray
from trimtab.graph.dependencies.labels import (
    Labels,
    along,
    dimensions,
    frozen,
    is_parameter,
    varying_axes,
)
from trimtab.graph.dependencies.rules import axes_of, data, input_at, rule


@rule("Transpose")
def transpose(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Permute the labels as the elements."""
    source = labels.of(data(node))
    order = node.attributes.get_ints("perm", None)
    return [source.transpose(order if order is not None else range(source.ndim)[::-1])]


@rule("Squeeze")
def squeeze(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Drop the axes; one that names none would also drop channels pruned to one."""
    source = labels.of(data(node))
    axes = axes_of(node, source.ndim)
    if axes is None or any(source.shape[axis] != 1 for axis in axes):
        return None
    return [source.squeeze(tuple(axes))]


@rule("Unsqueeze")
def unsqueeze(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Insert the axes."""
    axes = axes_of(node, len(dimensions(node.outputs[0])))
    return None if axes is None else [np.expand_dims(labels.of(data(node)), tuple(axes))]


@rule("Concat")
def concat(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Join the labels as the elements."""
    parts = [value for value in node.inputs if value is not None]
    sources = [labels.of_constant(p) if is_parameter(p) else labels.of(p) for p in parts]
    axis = node.attributes.get_int("axis", 0) % sources[0].ndim
    shape = np.max([source.shape for source in sources], axis=0)
    widened = []
    for part, source in zip(parts, sources, strict=True):
        shape[axis] = dimensions(part)[axis] or 0
        if shape[axis] == 0:
            return None
        widened.append(np.broadcast_to(source, tuple(shape)))
    return [np.concatenate(widened, axis)]


@rule("Split")
def split(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Cut the labels as the elements."""
    source = labels.of(data(node))
    axis = node.attributes.get_int("axis", 0) % source.ndim
    if source.shape[axis] == 1:
        return [source] * len(node.outputs)
    sizes = [dimensions(output)[axis] for output in node.outputs]
    if any(size is None for size in sizes):
        return None
    return np.split(source, np.cumsum([size or 0 for size in sizes])[:-1], axis)


@rule("Slice")
def slice_(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Cut the labels as the elements, where the bounds are constants and nothing is skipped."""
    source = labels.of(data(node))
    bounds = slice_bounds(node)
    if not varying_axes(source):
        return [source]
    if bounds is None:
        return None
    cuts = [slice(None)] * source.ndim
    for axis, cut in bounds.items():
        if source.shape[axis] > 1:
            if cut.step != 1 or dimensions(data(node))[axis] is None:
                return None
            cuts[axis] = cut
    return [source[tuple(cuts)]]


def slice_bounds(node: ir.Node) -> dict[int, slice] | None:
    """Return what a Slice cuts, by axis, counted from the front; None if known only at run time."""
    starts, ends = constant(input_at(node, 1)), constant(input_at(node, 2))
    axes, steps = input_at(node, 3), input_at(node, 4)
    if starts is None or ends is None:
        return None
    numbers = np.arange(len(starts)) if axes is None else constant(axes)
    strides = np.ones(len(starts), np.int64) if steps is None else constant(steps)
    if numbers is None or strides is None:
        return None
    rank = len(dimensions(data(node)))
    given = zip(numbers, starts, ends, strides, strict=True)
    return {int(a) % rank: slice(int(s), int(e), int(by)) for a, s, e, by in given}


@rule("Gather")
def gather(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Pick labels as the elements. A table of constants that is read by row makes channels."""
    table, indices = data(node), input_at(node, 1)
    assert indices is not None
    axis = node.attributes.get_int("axis", 0) % len(dimensions(table))
    rank = len(dimensions(indices))
    if is_parameter(table):
        return _embedding(table, rank, labels) if len(dimensions(table)) == 2 and not axis else None
    source = labels.of(table)
    if source.shape[axis] == 1:
        at = tuple(range(axis, axis + rank))
        return [np.expand_dims(source.squeeze(axis), at)]
    places = constant(indices)
    if places is None or rank > 1 or dimensions(table)[axis] is None:
        return None
    return [source.take(places, axis)]


def _embedding(table: ir.Value, rank: int, labels: Labels) -> list[LabelArray]:
    width = dimensions(table)[1]
    assert width is not None
    fresh = labels.atoms.create(width)
    labels.set_parameter(table, {1: fresh})
    labels.add_kernel(table, 1)
    return [along(fresh, rank, rank + 1)]


@rule("Pad")
def pad(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Keep the padding: it stays where channels go."""
    source = labels.of(data(node))
    amounts = constant(input_at(node, 1))
    if amounts is None or input_at(node, 3) is not None or (amounts < 0).any():
        return None
    before_and_after = amounts.reshape(2, source.ndim).T
    widths = [
        tuple(width) if size > 1 else (0, 0)
        for width, size in zip(before_and_after.tolist(), source.shape, strict=True)
    ]
    if any(map(any, widths)) and node.attributes.get_string("mode", "constant") != "constant":
        return None
    return [np.pad(source, widths, constant_values=FROZEN)]


@rule("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "LpPool")
def pool(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Pass axis 1 on and tie along the others.

    The second output of MaxPool numbers elements across channels, so it is not understood.
    """
    if len(node.outputs) != 1:
        return None
    source = labels.of(data(node))
    return [labels.tie_along(source, [axis for axis in varying_axes(source) if axis != 1])]


@rule("Resize")
def resize(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Pass the labels on when the scales leave the axes that carry them; sizes are kept."""
    source = labels.of(data(node))
    scales = constant(input_at(node, 2))
    if scales is None or scales.size != source.ndim:
        return None
    if any(scales[axis] != 1 for axis in varying_axes(source)):
        return None
    return [source]


@rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")
def reduce(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Tie along the reduced axes, whose elements the result cannot tell apart."""
    source = labels.of(data(node))
    axes = axes_of(node, source.ndim)
    if axes is None:
        return None
    reduced = [axis for axis in axes if source.shape[axis] > 1]
    source = labels.tie_because(source, reduced, f"{node.name} reduces over all of them")
    keep = node.attributes.get_int("keepdims", 1)
    return [source if keep else source.squeeze(tuple(axes))]


@rule("Range", "ConstantOfShape")
def made_at_run_time(node: ir.Node, _labels: Labels) -> Sequence[LabelArray] | None:
    """Keep all of it: its length is an input."""
    return [frozen(len(dimensions(node.outputs[0])))]


@rule("Shape")
def shape(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Understand lengths that never change: of inputs, and of axes that lose nothing."""
    varying = set(varying_axes(labels.of(data(node))))
    uses = [use.node for use in node.outputs[0].uses()]
    free = all((read := _axes_read(use)) is not None and not read & varying for use in uses)
    return [frozen(1)] if not varying or free else None


def _axes_read(node: ir.Node) -> set[int] | None:
    """Return which lengths a Gather or Slice takes from a shape, None if they are not known."""
    if node.op_type == "Gather":
        places = constant(input_at(node, 1))
        return None if places is None or places.min() < 0 else set(places.reshape(-1).tolist())
    if node.op_type == "Slice" and (bounds := slice_bounds(node)) is not None:
        size = dimensions(data(node))[0]
        return None if size is None else set(range(size)[bounds[0]])
    return None


@rule("Expand")
def expand(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Pass the labels on, where the target leaves the axes that carry them as they are."""
    source = labels.of_constant(data(node)) if is_parameter(data(node)) else labels.of(data(node))
    target = labels.formulas.of(input_at(node, 1))
    rank = len(dimensions(node.outputs[0]))
    if target is None:
        return None
    source = source.reshape((1,) * (rank - source.ndim) + source.shape)
    asked = (1,) * (rank - target.size) + tuple(target)
    return None if any(asked[axis] != 1 for axis in varying_axes(source)) else [source]


@rule("Tile")
def tile(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Repeat the labels as the elements."""
    source, repeats = labels.of(data(node)), constant(input_at(node, 1))
    if repeats is None:
        return None
    varying = varying_axes(source)
    return [np.tile(source, [n if axis in varying else 1 for axis, n in enumerate(repeats)])]
