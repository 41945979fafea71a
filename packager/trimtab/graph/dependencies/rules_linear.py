"""Rules of convolutions and of the normalisations that go with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import constant
from trimtab.graph.dependencies.atoms import LabelArray
from trimtab.graph.dependencies.labels import (
    Labels,
    along,
    dimensions,
    is_parameter,
    varying_axes,
)
from trimtab.graph.dependencies.rules import data, input_at, rule


@rule("Conv")
def conv(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Consume axis 1 of the input; make axis 1 of the output. Weight: (out, in / groups, ...)."""
    layer = _layer(node)
    if layer is None:
        return None
    weight, bias = layer
    made, taken = dimensions(weight)[:2]
    assert made is not None
    assert taken is not None
    groups = node.attributes.get_int("group", 1)
    source = labels.vector(labels.of(data(node)), 1, taken * groups)
    if groups > 1 and taken == 1:
        return [_depthwise(weight, bias, source, labels)]
    # Groups stay alike: channel i of every group goes, or none. So the group count stays.
    taken_atoms = labels.tie_along(source.reshape(groups, taken), [0]).reshape(-1)
    made_atoms = np.tile(labels.atoms.create(made // groups), groups)
    labels.add_reader(weight, 1)
    return [_make(weight, bias, {0: made_atoms, 1: taken_atoms}, labels)]


def _depthwise(
    weight: ir.Value, bias: ir.Value | None, source: LabelArray, labels: Labels
) -> LabelArray:
    """Tie each group's outputs to its one input channel: a whole group goes, or none of it."""
    multiplier = dimensions(weight)[0] // len(source)  # type: ignore[operator]  # a weight's shape is known
    return _make(weight, bias, {0: np.repeat(source, multiplier)}, labels)


@rule("ConvTranspose")
def conv_transpose(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """As Conv. Weight: (in, out / groups, ...)."""
    layer = _layer(node)
    if layer is None:
        return None
    weight, bias = layer
    taken, made = dimensions(weight)[:2]
    assert taken is not None
    assert made is not None
    groups = node.attributes.get_int("group", 1)
    source = labels.vector(labels.of(data(node)), 1, taken)
    if groups == taken > 1:
        # Depthwise: the outputs of a group go with its one input channel.
        labels.set_parameter(weight, {0: source})
        labels.add_kernel(weight, 0, channels=made)
        return [_with_bias(weight, bias, np.repeat(source, made), labels)]
    # Groups stay alike, as in Conv.
    source = np.tile(labels.tie_along(source.reshape(groups, -1), [0]).reshape(-1), groups)
    fresh = labels.atoms.create(made)
    labels.set_parameter(weight, {0: source, 1: fresh})
    labels.add_reader(weight, 0)
    labels.add_kernel(weight, 1, channels=groups)
    return [_with_bias(weight, bias, np.tile(fresh, groups), labels)]


@rule("BatchNormalization", "InstanceNormalization")
def normalization(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Tie scale, bias and statistics, one number a channel, to axis 1."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    if len(node.outputs) != 1 or not all(is_parameter(value) for value in parameters):
        return None
    array = constant(parameters[0])
    assert array is not None
    rank = len(dimensions(data(node)))
    channels = labels.vector(labels.of(data(node)), 1, array.size)
    for value in parameters:
        labels.set_parameter(value, {0: channels})
    return [along(channels, 1, rank)]


@rule("LayerNormalization", "RMSNormalization")
def layer_normalization(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Keep or drop together what is normalised together: its mean changes with each member."""
    if len(node.outputs) != 1:
        return None
    source = labels.of(data(node))
    first = node.attributes.get_int("axis", -1) % source.ndim
    if labels.across_norms and first == source.ndim - 1 and source.shape[first] > 1:
        return [_narrowed(node, labels.vector(source, first, source.shape[first]), labels)]
    for value in node.inputs[1:]:
        if value is not None:
            labels.freeze(value)
    normalised = [axis for axis in varying_axes(source) if axis >= first]
    return [labels.tie_because(source, normalised, f"{node.name} normalises them together")]


def _narrowed(node: ir.Node, features: LabelArray, labels: Labels) -> LabelArray:
    """Let a norm along the last axis lose features, with their scales and biases."""
    for value in node.inputs[1:]:
        if value is not None and is_parameter(value):
            labels.set_parameter(value, {0: features})
    return along(features, -1, len(dimensions(data(node))))


@rule("GroupNormalization")
def group_normalization(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Keep all: a group's statistics run over several channels."""
    for value in node.inputs:
        if value is not None:
            labels.freeze(value)
    return [labels.of(data(node))]


def _layer(node: ir.Node) -> tuple[ir.Value, ir.Value | None] | None:
    """Return weight and bias; None where one of them is no constant."""
    weight, bias = input_at(node, 1), input_at(node, 2)
    if weight is None or not is_parameter(weight) or not (bias is None or is_parameter(bias)):
        return None
    return weight, bias


def _make(
    weight: ir.Value, bias: ir.Value | None, vectors: dict[int, LabelArray], labels: Labels
) -> LabelArray:
    """Record a convolution's parameters and return the labels of its output."""
    labels.set_parameter(weight, vectors)
    labels.add_kernel(weight, 0)
    return _with_bias(weight, bias, vectors[0], labels)


def _with_bias(
    weight: ir.Value, bias: ir.Value | None, made: LabelArray, labels: Labels
) -> LabelArray:
    if bias is not None:
        labels.set_parameter(bias, {0: made})
    return along(made, 1, len(dimensions(weight)))
