"""Puts the factors of a layer into the graph in its place."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from trimtab.compress.decompositions import Array
from trimtab.compress.factors import SPLITTERS, Layer, Rung, Stage
from trimtab.graph.access import add_initializer, attribute, constant, replace_value, shape_of


def replace_layer(graph: ir.Graph, layer: Layer, rung: Rung) -> None:
    """Replace a layer by its factors, in place. Shapes are to be inferred again after.

    Args:
        graph: The graph that the layer's node is in.
        layer: The layer.
        rung: How.
    """
    splitter = SPLITTERS[rung.method]
    stages = splitter.grouped_stages(layer, rung.ranks)
    dtype = layer.weight.dtype
    weights = [array.astype(dtype) for array in splitter.grouped_weights(layer, rung.ranks)]
    builder = _Builder(graph, layer)
    if layer.kind == "recurrent":
        _project_input(builder, weights)
        return
    if rung.method == "tensor_train":
        output = _train(builder, weights)
    elif layer.kind == "table":
        output = _look_up(builder, weights)
    elif layer.kind == "dense":
        output = _dense(builder, weights)
    elif layer.kind == "transposed":
        output = _transposed_convolutions(builder, stages, weights)
    else:
        output = _convolutions(builder, stages, weights)
    replace_value(layer.node.outputs[0], output)
    graph.remove([layer.node], safe=True)


class _Builder:
    """Inserts nodes before a layer, named after it."""

    def __init__(self, graph: ir.Graph, layer: Layer) -> None:
        self.graph, self.layer = graph, layer
        self._count = 0

    @property
    def source(self) -> ir.Value:
        value = self.layer.node.inputs[0]
        assert value is not None
        return value

    @property
    def bias(self) -> ir.Value | None:
        inputs = self.layer.node.inputs
        return inputs[2] if len(inputs) > 2 else None

    def weight(self, array: Array, index: int) -> ir.Value:
        return add_initializer(self.graph, f"{self.layer.name}.{index}", array)

    def node(
        self, operator: str, inputs: Sequence[ir.Value], attributes: dict[str, Any] | None = None
    ) -> ir.Value:
        name = f"{self.layer.node.name or self.layer.node.outputs[0].name}.{self._count}"
        self._count += 1
        made = ir.node(operator, inputs, attributes, name=name)
        made.outputs[0].name = f"{self.layer.node.outputs[0].name}.{self._count}"
        self.graph.insert_before(self.layer.node, made)
        return made.outputs[0]

    def reshape(self, value: ir.Value, *target: int) -> ir.Value:
        shape = add_initializer(self.graph, f"{value.name}_shape", np.array(target, np.int64))
        return self.node("Reshape", [value, shape])


def _dense(builder: _Builder, weights: Sequence[Array]) -> ir.Value:
    value = builder.source
    for index, array in enumerate(weights):
        inputs = [value, builder.weight(array, index)]
        if index == len(weights) - 1 and builder.bias is not None:
            return builder.node("Gemm", [*inputs, builder.bias])
        value = builder.node("MatMul", inputs)
    return value


def _look_up(builder: _Builder, weights: Sequence[Array]) -> ir.Value:
    """Look up in a table of fewer columns, then widen what was found."""
    table, matrix = (builder.weight(array, index) for index, array in enumerate(weights))
    indices = builder.layer.node.inputs[1]
    assert indices is not None
    return builder.node("MatMul", [builder.node("Gather", [table, indices]), matrix])


def _project_input(builder: _Builder, weights: Sequence[Array]) -> None:
    """Multiply a recurrent layer's input by the first factor; the second stays in the layer."""
    node = builder.layer.node
    value = builder.node("MatMul", [builder.source, builder.weight(weights[0], 0)])
    old = constant(node.inputs[1])
    assert old is not None
    second = weights[1].T.reshape(*old.shape[:-1], -1)
    node.replace_input_with(0, value)
    node.replace_input_with(1, builder.weight(second, 1))


def _convolutions(builder: _Builder, stages: Sequence[Stage], weights: Sequence[Array]) -> ir.Value:
    value = builder.source
    for index, (stage, array) in enumerate(zip(stages, weights, strict=True)):
        bias = _bias(builder, is_last=index == len(stages) - 1)
        inputs = [value, builder.weight(array, index), *bias]
        value = builder.node("Conv", inputs, _attributes(builder.layer, stage))
    return value


def _transposed_convolutions(
    builder: _Builder, stages: Sequence[Stage], weights: Sequence[Array]
) -> ir.Value:
    """Put in the adjoints of a convolution's stages, the last one first."""
    value = builder.source
    for index in range(len(stages) - 1, -1, -1):
        stage, array, bias = stages[index], weights[index], _bias(builder, is_last=index == 0)
        attributes = _attributes(builder.layer, stage)
        if not stage.axes:  # a 1x1, which a plain convolution does as well and more kernels know
            inputs = [value, builder.weight(_adjoint(array, stage.group), index), *bias]
            value = builder.node("Conv", inputs, attributes)
            continue
        padding = attribute(builder.layer.node, "output_padding", [0] * len(builder.layer.kernel))
        kept = [pad if axis in stage.axes else 0 for axis, pad in enumerate(padding)]
        inputs = [value, builder.weight(array, index), *bias]
        value = builder.node("ConvTranspose", inputs, {**attributes, "output_padding": kept})
    return value


def _adjoint(weight: Array, groups: int) -> Array:
    """Swap the channel axes of each group: (out, in / groups, ...) to (in, out / groups, ...)."""
    return np.concatenate([part.swapaxes(0, 1) for part in np.split(weight, groups)])


def _bias(builder: _Builder, *, is_last: bool) -> list[ir.Value]:
    return [builder.bias] if is_last and builder.bias is not None else []


def _attributes(layer: Layer, stage: Stage) -> dict[str, Any]:
    """Give a stage the strides, dilations and pads of the axes that it covers."""
    rank = len(layer.kernel)

    def on_axes(name: str, default: int) -> list[int]:
        given = attribute(layer.node, name, None)
        values = [default] * rank if given is None else list(given)
        return [v if axis in stage.axes else default for axis, v in enumerate(values)]

    attributes: dict[str, Any] = {
        "kernel_shape": list(stage.shape[2:]),
        "strides": on_axes("strides", 1),
        "dilations": on_axes("dilations", 1),
        "group": stage.group,
    }
    automatic = attribute(layer.node, "auto_pad", "NOTSET")
    if automatic != "NOTSET":
        # It works on each axis alone, and pads none that has a kernel of 1 and no stride.
        return {**attributes, "auto_pad": automatic}
    pads = attribute(layer.node, "pads", [0] * (2 * rank))
    kept = [pad if index % rank in stage.axes else 0 for index, pad in enumerate(pads)]
    return {**attributes, "pads": kept}


def _train(builder: _Builder, cores: Sequence[Array]) -> ir.Value:
    """Multiply by one core after another, the last digit first.

    The value is kept as (batch, axes between, digits of inputs to come, the digit at hand with the
    rank, digits of outputs that are done).
    """
    value, done = builder.source, 1
    rows = [-1, *(size or 1 for size in (shape_of(value) or ())[1:-1])]
    kept, n = range(len(rows)), len(rows)
    for place in range(len(cores) - 1, -1, -1):
        before, taken, made, after = cores[place].shape
        left = prod(core.shape[1] for core in cores[:place])
        value = builder.reshape(value, *rows, left, taken * after, done)
        value = builder.node("Transpose", [value], {"perm": [*kept, n, n + 2, n + 1]})
        matrix = cores[place].transpose(1, 3, 0, 2).reshape(taken * after, before * made)
        value = builder.node("MatMul", [value, builder.weight(matrix, place)])
        value = builder.reshape(value, *rows, left, done, before, made)
        value = builder.node("Transpose", [value], {"perm": [*kept, n, n + 2, n + 3, n + 1]})
        done *= made
    value = builder.reshape(value, *rows, done)
    return value if builder.bias is None else builder.node("Add", [value, builder.bias])
