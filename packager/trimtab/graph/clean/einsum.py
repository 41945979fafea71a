"""Einsum as matrix products, which every runtime has fast kernels for.

Keras writes the projections of attention as `abc,cde->abde`, a product with a matrix whose columns
are numbered by head and feature, and the rest as batched products such as `aecd,abcd->acbe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import (
    add_initializer,
    attribute,
    constant,
    only_consumer,
    replace_value,
    shape_of,
)
from trimtab.graph.equations import Letters, parse_equation


def lower_einsum(model: ir.Model) -> bool:
    """Writes an Einsum of two operands as MatMul, with transposes and reshapes where needed."""
    changed = False
    for node in list(model.graph):
        if node.op_type != "Einsum" or len(node.inputs) != 2:
            continue
        letters = parse_equation(attribute(node, "equation", ""))
        left, right = node.inputs
        if letters is None or left is None or right is None:
            continue
        if constant(left) is not None:
            left, right, letters = right, left, letters.swapped()
        lower = _layer if constant(right) is not None else _batched
        output = lower(_Writer(model.graph, node), left, right, letters)
        if output is not None:
            replace_value(node.outputs[0], output)
            model.graph.remove(node, safe=True)
            changed = True
    return changed


def hoist_bias(model: ir.Model) -> bool:
    """Adds a bias before the last axis is split, where it stands right behind the product.

    `Reshape(x, [..., heads, size]) + b` is `Reshape(x + b', [..., heads, size])`.
    """
    changed = False
    for add in list(model.graph):
        if add.op_type != "Add" or len(add.inputs) != 2:
            continue
        sides = [add.inputs, add.inputs[::-1]]
        for data, bias in sides:
            reshape = data.producer() if data is not None else None
            array = constant(bias)
            if array is None or reshape is None or not _splits_last_axis(reshape, array.shape):
                continue
            if only_consumer(reshape.outputs[0]) is not add:
                continue
            source = reshape.inputs[0]
            flat = add_initializer(model.graph, f"{bias.name}_flat", array.reshape(-1))  # type: ignore[union-attr]  # a constant is a value
            moved = ir.node("Add", [source, flat], name=add.name)
            model.graph.insert_before(reshape, moved)
            reshape.replace_input_with(0, moved.outputs[0])
            replace_value(add.outputs[0], reshape.outputs[0])
            model.graph.remove(add, safe=True)
            changed = True
            break
    return changed


def _splits_last_axis(node: ir.Node, sizes: tuple[int, ...]) -> bool:
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    return (
        node.op_type == "Reshape"
        and before is not None
        and after is not None
        and len(sizes) > 1
        and len(after) == len(before) + len(sizes) - 1
        and after[len(before) - 1 :] == sizes
        and before[-1] == prod(sizes)
    )


class _Writer:
    """Inserts nodes in the place of another."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node = graph, node

    def add(self, operator: str, *inputs: ir.Value, **attributes: Sequence[int]) -> ir.Value:
        made = ir.node(operator, inputs, attributes, name=f"{self.node.name}/{operator}")
        self.graph.insert_before(self.node, made)
        return made.outputs[0]

    def transpose(self, value: ir.Value, own: str, wanted: str) -> ir.Value:
        if own == wanted:
            return value
        return self.add("Transpose", value, perm=[own.index(letter) for letter in wanted])

    def reshape(self, value: ir.Value, kept: int, *sizes: int) -> ir.Value:
        """Keeps the first axes and gives the rest other sizes."""
        target = np.array([0] * kept + list(sizes), np.int64)
        name = f"{self.node.name}_shape"
        return self.add("Reshape", value, add_initializer(self.graph, name, target))


def _layer(writer: _Writer, data: ir.Value, weight: ir.Value, letters: Letters) -> ir.Value | None:
    """A product with a weight: it sums over some of its axes and makes the others."""
    own, result = letters.left, letters.result
    summed = "".join(letter for letter in letters.right if letter in own)
    made = "".join(x for x in result if x in letters.right and x not in own)
    rows = "".join(letter for letter in own if letter not in summed)
    whole = set(rows + made) == set(result) and set(summed + made) == set(letters.right)
    array = constant(weight)
    if not whole or not summed or not made or not rows or array is None:
        return None
    sizes = dict(zip(letters.right, array.shape, strict=True))
    lengths = [prod(sizes[letter] for letter in part) for part in (summed, made)]
    order = [letters.right.index(letter) for letter in summed + made]
    matrix = np.ascontiguousarray(array.transpose(order).reshape(lengths))
    value = writer.transpose(data, own, rows + summed)
    if len(summed) > 1:
        value = writer.reshape(value, len(rows), lengths[0])
    value = writer.add("MatMul", value, add_initializer(writer.graph, str(weight.name), matrix))
    if len(made) > 1:
        value = writer.reshape(value, len(rows), *(sizes[letter] for letter in made))
    return writer.transpose(value, rows + made, result)


def _batched(writer: _Writer, left: ir.Value, right: ir.Value, letters: Letters) -> ir.Value | None:
    """A product of two computed tensors, with one axis that is summed and one free in each."""
    batch = "".join(x for x in letters.result if x in letters.left and x in letters.right)
    summed = "".join(x for x in letters.left if x in letters.right and x not in batch)
    free = [
        "".join(x for x in own if x not in batch + summed) for own in (letters.left, letters.right)
    ]
    if [len(part) for part in (summed, *free)] != [1, 1, 1]:
        return None
    if set(batch + free[0] + free[1]) != set(letters.result):
        return None
    if letters.result.index(free[0]) > letters.result.index(free[1]):
        return _batched(writer, right, left, letters.swapped())
    one = writer.transpose(left, letters.left, batch + free[0] + summed)
    other = writer.transpose(right, letters.right, batch + summed + free[1])
    return writer.transpose(
        writer.add("MatMul", one, other), batch + free[0] + free[1], letters.result
    )
