"""Rules of matrix products and of their general form, Einsum: dense layers and attention.

Each axis of a product gets a letter, as in Einsum: `bhik,bhkj->bhij` is the product of queries and
keys in attention, with the heads `h` among the axes that the product runs along and the features
of a head `k` summed over. Features that are summed over stay together, so what is left free is the
head: it takes its slices of all three projections and of the output projection with it.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import attribute
from trimtab.graph.dependencies.atoms import LabelArray
from trimtab.graph.dependencies.labels import (
    Labels,
    along,
    dimensions,
    frozen,
    is_parameter,
    varying_axes,
)
from trimtab.graph.dependencies.rules import data, input_at, rule
from trimtab.graph.dependencies.rules_elementwise import attach_constant
from trimtab.graph.equations import Letters, parse_equation


@rule("MatMul")
def matmul(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Multiply matrices along the last two axes; the axes before them are broadcast."""
    left, right = _operands(node)
    ranks = len(dimensions(left)), len(dimensions(right))
    if min(ranks) < 2:
        return None
    batch = string.ascii_uppercase[: max(ranks) - 2]
    letters = Letters(
        f"{batch[len(batch) - ranks[0] + 2 :]}ik",
        f"{batch[len(batch) - ranks[1] + 2 :]}kj",
        f"{batch}ij",
    )
    return _product(left, right, letters, labels)


@rule("Einsum")
def einsum(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Multiply two tensors; other forms, and those with an ellipsis, are not understood."""
    letters = parse_equation(node.attributes.get_string("equation", ""))
    if letters is None or len(node.inputs) != 2:
        return None
    return _product(*_operands(node), letters, labels)


@rule("Gemm")
def gemm(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """As MatMul; the weight is (out, in) with transB. The addend is broadcast to the output."""
    _, weight = _operands(node)
    bias = input_at(node, 2)
    if attribute(node, "transA", 0) or not is_parameter(weight):
        return None
    if bias is not None and not is_parameter(bias):
        return None
    right = "jk" if node.attributes.get_int("transB", 0) else "kj"
    made = _product(data(node), weight, Letters("ik", right, "ij"), labels)
    if made is None or bias is None:
        return made
    return [attach_constant(bias, made[0], labels)]


def _operands(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    left, right = node.inputs[:2]
    assert left is not None
    assert right is not None
    return left, right


def _product(
    left: ir.Value, right: ir.Value, letters: Letters, labels: Labels
) -> list[LabelArray] | None:
    """Return the labels of the result in a list, None where the product is not understood."""
    if is_parameter(right):
        made = _layer(left, right, letters, labels)
    elif is_parameter(left):
        made = _layer(right, left, letters.swapped(), labels)
    else:
        made = _between_activations(left, right, letters, labels)
    return None if made is None else [made]


def _layer(
    source: ir.Value, weight: ir.Value, letters: Letters, labels: Labels
) -> LabelArray | None:
    """Consume axes of a tensor and make new ones, by a weight.

    A weight may make several axes, such as heads and the features of each. The first of them that
    is longer than one gets the atoms: heads come first in every such layer.

    Args:
        source: The tensor, on the left of the letters.
        weight: The weight, on the right.
        letters: Of their axes.
        labels: Where all is recorded.
    """
    own, weights, result = letters.left, letters.right, letters.result
    taken = [letter for letter in weights if letter in own]
    made = [letter for letter in weights if letter not in own]
    # A weight of its own for each place of an axis is not understood.
    if not made or set(taken) & set(result) or not set(made) <= set(result):
        return None
    sizes = dict(zip(weights, dimensions(weight), strict=True))
    array = labels.of(source)
    varying = varying_axes(array)
    carrying = next((axis for axis in varying if own[axis] in taken), None)
    if carrying is None and varying and set(own) - set(taken) <= set(result):
        return _beside(array, weight, letters, labels)
    vector = labels.tie_along(array, [axis for axis in varying if axis != carrying]).reshape(-1)
    chosen = next((letter for letter in made if sizes[letter] != 1), made[0])
    fresh = labels.atoms.create(sizes[chosen] or 0)
    vectors = {weights.index(chosen): fresh}
    if carrying is not None:
        vectors[weights.index(own[carrying])] = vector
        labels.add_reader(weight, weights.index(own[carrying]))
    labels.set_parameter(weight, vectors)
    features = prod(sizes[letter] or 0 for letter in made if letter != chosen)
    labels.add_kernel(weight, weights.index(chosen), channels=features)
    return along(fresh, result.index(chosen), len(result))


def _beside(array: LabelArray, weight: ir.Value, letters: Letters, labels: Labels) -> LabelArray:
    """Pass on the atoms of axes that a weight leaves alone, as of channels in a mix of steps.

    What the weight itself makes is kept: an element has one atom.
    """
    own, result = letters.left, letters.result
    labels.atoms.cause = "they mix steps, and channels can go there"
    labels.set_parameter(weight, {})
    made = letters.right.index(next(x for x in letters.right if x not in own))
    labels.add_kernel(weight, made)
    kept = [letter for letter in own if letter in result]
    array = array.squeeze(tuple(axis for axis, letter in enumerate(own) if letter not in result))
    order = sorted(range(len(kept)), key=lambda axis: result.index(kept[axis]))
    missing = tuple(axis for axis, letter in enumerate(result) if letter not in own)
    return np.expand_dims(array.transpose(order), missing)


def _between_activations(
    left: ir.Value, right: ir.Value, letters: Letters, labels: Labels
) -> LabelArray | None:
    """Keep or drop together what is summed over, and both operands along what they share.

    An element of the result has one atom only. Where both operands have some for it, they are
    tied, or the right one is kept. Where they have none but along what is summed over, as queries
    and keys of a single head, each summand may go on its own.
    """
    if _tie_summands(left, right, letters, labels):
        return frozen(len(letters.result))
    one = _without_summed(left, letters.left, letters.result, labels)
    other = _without_summed(right, letters.right, letters.result, labels)
    varying = [set(varying_axes(array)) for array in (one, other)]
    shared = {
        axis
        for axis, letter in enumerate(letters.result)
        if _is_long(left, letters.left, letter) and _is_long(right, letters.right, letter)
    }
    if shared & (varying[0] | varying[1]):
        labels.atoms.tie(one, other)
        return labels.reduced(np.broadcast_arrays(one, other)[0])
    if all(varying):
        # Heads that share one set of values: the heads stay free, the features of values do not.
        labels.atoms.freeze(other)
    if not any(varying):
        return frozen(len(letters.result))
    return one if varying[0] else other


def _tie_summands(left: ir.Value, right: ir.Value, letters: Letters, labels: Labels) -> bool:
    """Tie both operands along the one axis that is summed over, if atoms change along it alone."""
    vectors = []
    for value, own in ((left, letters.left), (right, letters.right)):
        array = labels.of(value)
        summed = [axis for axis, letter in enumerate(own) if letter not in letters.result]
        if varying_axes(array) != summed or array.shape[summed[0]] != dimensions(value)[summed[0]]:
            return False
        vectors.append(array.reshape(-1))
    labels.atoms.tie(vectors[0], vectors[1])
    return True


def _without_summed(value: ir.Value, own: str, result: str, labels: Labels) -> LabelArray:
    """Tie along the axes that are summed over and lay the rest out as the result is."""
    array = labels.of(value)
    summed = [axis for axis, letter in enumerate(own) if letter not in result]
    long = [axis for axis in summed if array.shape[axis] > 1]
    array = labels.tie_because(array, long, "attention sums over all of them")
    array = array.squeeze(tuple(summed))
    kept = [letter for letter in own if letter in result]
    order = sorted(range(len(kept)), key=lambda axis: result.index(kept[axis]))
    missing = tuple(axis for axis, letter in enumerate(result) if letter not in own)
    return np.expand_dims(array.transpose(order), missing)


def _is_long(value: ir.Value, own: str, letter: str) -> bool:
    return letter in own and dimensions(value)[own.index(letter)] != 1
