"""Rules of the layers that consume channels and make new ones, and of those that go with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import attribute, constant
from trimtab.graph.dependencies.atoms import LabelArray
from trimtab.graph.dependencies.labels import Labels, along, dimensions, is_parameter, name_of
from trimtab.graph.dependencies.rules import data, input_at, rule
from trimtab.graph.dependencies.rules_elementwise import attach_constant


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
    return [_make(weight, bias, {0: made_atoms, 1: taken_atoms}, 0, labels)]


def _depthwise(
    weight: ir.Value, bias: ir.Value | None, source: LabelArray, labels: Labels
) -> LabelArray:
    """Tie each group's outputs to its one input channel: a whole group goes, or none of it."""
    multiplier = dimensions(weight)[0] // len(source)  # type: ignore[operator]  # a weight's shape is known
    return _make(weight, bias, {0: np.repeat(source, multiplier)}, 0, labels)


@rule("ConvTranspose")
def conv_transpose(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """As Conv, with one group. Weight: (in, out, ...)."""
    layer = _layer(node)
    if layer is None or node.attributes.get_int("group", 1) != 1:
        return None
    weight, bias = layer
    taken, made = dimensions(weight)[:2]
    assert taken is not None
    assert made is not None
    source = labels.vector(labels.of(data(node)), 1, taken)
    return [_make(weight, bias, {0: source, 1: labels.atoms.create(made)}, 1, labels)]


@rule("MatMul")
def matmul(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Consume the last axis; make the last axis. Weight: (in, out).

    A product of two activations, or of a constant with one, is not understood.
    """
    layer = _layer(node)
    if layer is None or len(dimensions(layer[0])) != 2 or len(dimensions(data(node))) < 2:
        return None
    return [_dense(node, layer[0], taken_axis=0, labels=labels)]


@rule("Gemm")
def gemm(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """As MatMul; the weight is (out, in) with transB. The addend is broadcast to the output."""
    layer = _layer(node)
    if layer is None or attribute(node, "transA", 0):
        return None
    weight, bias = layer
    result = _dense(node, weight, node.attributes.get_int("transB", 0), labels)
    return [result if bias is None else attach_constant(bias, result, labels)]


def _dense(node: ir.Node, weight: ir.Value, taken_axis: int, labels: Labels) -> LabelArray:
    taken, made = dimensions(weight)[taken_axis], dimensions(weight)[1 - taken_axis]
    assert taken is not None
    assert made is not None
    source = labels.vector(labels.of(data(node)), -1, taken)
    fresh = labels.atoms.create(made)
    labels.set_parameter(weight, {taken_axis: source, 1 - taken_axis: fresh})
    labels.kernels.add(name_of(weight))
    rank = len(dimensions(data(node)))
    return along(fresh, rank - 1, rank)


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


def _layer(node: ir.Node) -> tuple[ir.Value, ir.Value | None] | None:
    """Return weight and bias; None where one of them is no constant."""
    weight, bias = input_at(node, 1), input_at(node, 2)
    if weight is None or not is_parameter(weight) or not (bias is None or is_parameter(bias)):
        return None
    return weight, bias


def _make(
    weight: ir.Value,
    bias: ir.Value | None,
    vectors: dict[int, LabelArray],
    made_axis: int,
    labels: Labels,
) -> LabelArray:
    """Record a convolution's parameters and return the labels of its output."""
    labels.set_parameter(weight, vectors)
    labels.kernels.add(name_of(weight))
    if bias is not None:
        labels.set_parameter(bias, {0: vectors[made_axis]})
    return along(vectors[made_axis], 1, len(dimensions(weight)))
