"""Cuts classes of channels out of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from trimtab.graph.access import add_initializer, constant, infer_shapes, set_initializer
from trimtab.graph.dependencies.groups import Axis, Dependencies
from trimtab.graph.dependencies.labels import dimensions, name_of
from trimtab.graph.dependencies.rules_layout import slice_bounds
from trimtab.graph.dependencies.rules_reshape import axis_by_axis
from trimtab.graph.shapes import name_lengths

Keeps = dict[Axis, npt.NDArray[np.bool_]]
"""For each axis that loses slices, which of them it keeps."""


def remove_channels(
    model: ir.Model, dependencies: Dependencies, classes: Iterable[int]
) -> ir.Model:
    """Return a copy of the model without some classes of channels.

    Args:
        model: The model that was analysed. It is left as it is.
        dependencies: What `analyse` found in it.
        classes: Numbers of the classes to drop. Each group must keep one.

    Raises:
        ValueError: A group would lose all its classes.
    """
    dropped = set(classes)
    for group in dependencies.groups:
        if dropped.issuperset(group.classes):
            raise ValueError(f"group {group.name} would lose all {len(group.classes)} classes")
    keeps = {
        axis: keep
        for axis, roots in dependencies.axes.items()
        if not (keep := ~np.isin(roots, list(dropped))).all()
    }
    pruned = model.clone()
    for node in pruned.graph:
        if rewrite := _REWRITES.get(node.op_type):
            rewrite(node, pruned.graph, keeps)
    for (name, axis), keep in keeps.items():
        if (value := pruned.graph.initializers.get(name)) is not None:
            array = constant(value)
            assert array is not None
            set_initializer(value, array.compress(keep, axis))
    infer_shapes(pruned)
    name_lengths(pruned)
    return pruned


def _set_group_count(node: ir.Node, _graph: ir.Graph, keeps: Keeps) -> None:
    """Count the groups of a depthwise convolution again; other group counts never change."""
    source, weight = node.inputs[0], node.inputs[1]
    assert source is not None
    assert weight is not None
    groups = node.attributes.get_int("group", 1)
    keep = keeps.get((name_of(source), 1))
    if groups > 1 and dimensions(weight)[1] == 1 and keep is not None:
        node.attributes["group"] = ir.AttrInt64("group", int(keep.sum()))


def _set_transposed_group_count(node: ir.Node, _graph: ir.Graph, keeps: Keeps) -> None:
    """Count the groups of a depthwise transposed convolution again."""
    weight = node.inputs[1]
    assert weight is not None
    groups = node.attributes.get_int("group", 1)
    keep = keeps.get((name_of(weight), 0))
    if groups == dimensions(weight)[0] and groups > 1 and keep is not None:
        node.attributes["group"] = ir.AttrInt64("group", int(keep.sum()))


def _set_target_shape(node: ir.Node, graph: ir.Graph, keeps: Keeps) -> None:
    """Give a Reshape its new length, as -1 where that is free.

    A target of 0 (as in the input) or -1 (what is left) is right as it is.
    """
    target = node.inputs[1]
    assert target is not None
    if constant(target) is None:
        _set_computed_target(node, graph, keeps)
        return
    for axis in range(len(dimensions(node.outputs[0]))):
        keep = keeps.get((name_of(node.outputs[0]), axis))
        array = constant(target)
        if keep is not None and array is not None and array[axis] > 0:
            array = array.copy()
            array[axis] = keep.sum() if (array == -1).any() else -1
            node.replace_input_with(1, add_initializer(graph, f"{target.name}_pruned", array))


def _set_computed_target(node: ir.Node, graph: ir.Graph, keeps: Keeps) -> None:
    """Give a Reshape whose target is put together at run time its new lengths."""
    joined = axis_by_axis(node.inputs[1])
    shrunk = {
        axis: keep
        for axis in range(len(dimensions(node.outputs[0])))
        if (keep := keeps.get((name_of(node.outputs[0]), axis))) is not None
    }
    if joined is None or not shrunk:
        return
    parts = list(joined.inputs)
    for axis, keep in shrunk.items():
        if constant(parts[axis]) is not None:
            parts[axis] = add_initializer(graph, "length", np.array([keep.sum()], np.int64))
    concat = ir.node("Concat", parts, {"axis": 0})
    concat.outputs[0].name = f"{node.outputs[0].name}_shape"
    graph.insert_before(node, concat)
    node.replace_input_with(1, concat.outputs[0])


def _set_split_sizes(node: ir.Node, graph: ir.Graph, keeps: Keeps) -> None:
    """Spell out the sizes of the parts of a Split."""
    axis = node.attributes.get_int("axis", 0) % len(dimensions(node.outputs[0]))
    if not any((name_of(output), axis) in keeps for output in node.outputs):
        return
    sizes = [
        int(keep.sum())
        if (keep := keeps.get((name_of(output), axis))) is not None
        else dimensions(output)[axis]
        for output in node.outputs
    ]
    value = add_initializer(graph, f"{node.outputs[0].name}_sizes", np.array(sizes, dtype=np.int64))
    node.attributes.pop("num_outputs", None)
    node.resize_inputs(2)
    node.replace_input_with(1, value)


def _set_slice_bounds(node: ir.Node, graph: ir.Graph, keeps: Keeps) -> None:
    """Count the bounds of a Slice in what is left of its input."""
    source, bounds = node.inputs[0], slice_bounds(node)
    assert source is not None
    if bounds is None or not any((name_of(source), axis) in keeps for axis in bounds):
        return
    columns: list[list[int]] = [[], [], [], []]
    for axis, cut in bounds.items():
        start, end, step = cut.start, cut.stop, cut.step
        keep = keeps.get((name_of(source), axis))
        if keep is not None:
            first, last, _ = cut.indices(len(keep))
            start, end = int(keep[:first].sum()), int(keep[:last].sum())
        for column, number in zip(columns, (start, end, axis, step), strict=True):
            column.append(number)
    node.resize_inputs(5)
    for index, (what, column) in enumerate(zip(_SLICE_INPUTS, columns, strict=True), start=1):
        name = f"{node.outputs[0].name}_{what}"
        node.replace_input_with(index, add_initializer(graph, name, np.array(column, np.int64)))


_SLICE_INPUTS = ("starts", "ends", "axes", "steps")


def _set_gathered(node: ir.Node, graph: ir.Graph, keeps: Keeps) -> None:
    """Number the picked slices as they are numbered in what is left of the input."""
    source, places = node.inputs[0], constant(node.inputs[1])
    assert source is not None
    axis = node.attributes.get_int("axis", 0) % len(dimensions(source))
    keep = keeps.get((name_of(source), axis))
    if keep is None or places is None:
        return
    places = np.where(places < 0, places + len(keep), places)
    moved = (np.cumsum(keep) - 1)[places[keep[places]] if places.ndim else places]
    name = f"{node.outputs[0].name}_indices"
    node.replace_input_with(1, add_initializer(graph, name, np.asarray(moved, np.int64)))


def _set_hidden_size(node: ir.Node, _graph: ir.Graph, keeps: Keeps) -> None:
    """Count the hidden units of a recurrent layer again."""
    recurrence = node.inputs[2]
    assert recurrence is not None
    keep = keeps.get((name_of(recurrence), 2))
    if keep is not None:
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", int(keep.sum()))


_REWRITES: dict[str, Callable[[ir.Node, ir.Graph, Keeps], None]] = {
    "Conv": _set_group_count,
    "ConvTranspose": _set_transposed_group_count,
    "GRU": _set_hidden_size,
    "Gather": _set_gathered,
    "LSTM": _set_hidden_size,
    "RNN": _set_hidden_size,
    "Reshape": _set_target_shape,
    "Slice": _set_slice_bounds,
    "Split": _set_split_sizes,
}
