"""Cuts classes of channels out of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from trimtab.graph.access import add_initializer, constant, infer_shapes, set_initializer
from trimtab.graph.dependencies.groups import Axis, Dependencies
from trimtab.graph.dependencies.labels import dimensions, name_of

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


def _set_target_shape(node: ir.Node, graph: ir.Graph, keeps: Keeps) -> None:
    """Give a Reshape its new length, as -1 where that is free.

    A target of 0 (as in the input) or -1 (what is left) is right as it is.
    """
    target = node.inputs[1]
    assert target is not None
    for axis in range(len(dimensions(node.outputs[0]))):
        keep = keeps.get((name_of(node.outputs[0]), axis))
        array = constant(target)
        if keep is not None and array is not None and array[axis] > 0:
            array = array.copy()
            array[axis] = keep.sum() if (array == -1).any() else -1
            node.replace_input_with(1, add_initializer(graph, f"{target.name}_pruned", array))


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


_REWRITES: dict[str, Callable[[ir.Node, ir.Graph, Keeps], None]] = {
    "Conv": _set_group_count,
    "Reshape": _set_target_shape,
    "Split": _set_split_sizes,
}
