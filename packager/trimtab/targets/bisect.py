"""Where a model first departs from what it should do: bisection over the graph.

The graph is cut off behind one of its values, and what is left is compared like a whole model. What
is computed from wrong numbers is taken to be wrong, so a value that is right clears all that it is
computed from, and one that is wrong leaves only that to be looked at: each look rules out about
half of the values (`git bisect` finds a commit among branches in the same way).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.graph.access import Array, infer_shapes

_PAIR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Prefix:
    """A graph, cut off behind one value.

    Attributes:
        model: It has the inputs that the value depends on, and the value as its only output.
        inputs: Numbers of these inputs among the whole graph's.
    """

    model: ir.Model
    inputs: tuple[int, ...]

    def choose(self, samples: Sequence[Array]) -> tuple[Array, ...]:
        """Returns those of the whole graph's inputs that this one has."""
        return tuple(samples[index] for index in self.inputs)


def cut_points(model: ir.Model) -> tuple[str, ...]:
    """Lists the values behind which a graph can be cut, in the order of its nodes.

    They are float, depend on an input, and have samples along their first axis, as outputs that are
    compared must have. Of a value with a pair of QuantizeLinear and
    DequantizeLinear it is the far end: cut before it, the operator would no longer be an integer
    one.
    """
    dependent = set(model.graph.inputs)
    shape = model.graph.inputs[0].shape
    batch = shape[0] if shape else None
    points = []
    for node in model.graph:
        if not any(value in dependent for value in node.inputs):
            continue
        dependent.update(node.outputs)
        points += [str(value.name) for value in node.outputs if _can_be_cut(value, batch)]
    return tuple(points)


def _can_be_cut(value: ir.Value, batch: int | ir.SymbolicDim | None) -> bool:
    if value.dtype != ir.DataType.FLOAT or not value.shape:  # a scalar has no sample axis
        return False
    first = value.shape[0]
    # A free one need not have the input's name: shape inference invents names behind a Reshape.
    if first != batch and (isinstance(first, int) or isinstance(batch, int)):
        return False
    return all(use.node.op_type != "QuantizeLinear" for use in value.uses())


def cut(model: ir.Model, name: str) -> Prefix:
    """Returns what computes one value of a graph."""
    copy = model.clone()
    values = (value for node in copy.graph for value in node.outputs)
    copy.graph.outputs[:] = [next(value for value in values if value.name == name)]
    common.RemoveUnusedNodesPass()(copy)
    kept = [(index, value) for index, value in enumerate(copy.graph.inputs) if list(value.uses())]
    copy.graph.inputs[:] = [value for _, value in kept]
    infer_shapes(copy)
    return Prefix(copy, tuple(index for index, _ in kept))


def first_departure(
    model: ir.Model, names: Sequence[str], departs: Callable[[str], bool]
) -> str | None:
    """Finds a value that departs and is computed from none that does.

    Args:
        model: The graph.
        names: Values to look at, in the order of the graph, as `cut_points` lists them.
        departs: Looks at one value.

    Returns:
        Its name, or None if none of the values that no other one is computed from departs.
    """
    before = _ancestors(model, names)
    inner = 0
    for mask in before:
        inner |= mask
    ends = (number for number in range(len(names)) if not inner >> number & 1)
    found = next((number for number in ends if departs(names[number])), None)
    if found is None:
        return None
    suspects = before[found]
    while suspects:
        number = _halving(suspects, before)
        if departs(names[number]):
            found = number
            suspects &= before[number]
        else:
            suspects &= ~(before[number] | 1 << number)
    return names[found]


def _ancestors(model: ir.Model, names: Sequence[str]) -> list[int]:
    """Returns which of the named values each of them is computed from, as a set of bits."""
    bits = {name: 1 << number for number, name in enumerate(names)}
    above: dict[ir.Value, int] = {}  # of each value: the named ones behind it, itself included
    found = dict.fromkeys(names, 0)
    for node in model.graph:
        mask = 0
        for value in node.inputs:
            mask |= 0 if value is None else above.get(value, 0)
        for value in node.outputs:
            if value.name in bits:
                found[value.name] = mask
            above[value] = mask | bits.get(str(value.name), 0)
    return [found[name] for name in names]


def _halving(suspects: int, before: Sequence[int]) -> int:
    """Returns the suspect whose own suspects, itself included, are nearest to half of all."""
    half = suspects.bit_count() / 2
    numbers = [number for number in range(len(before)) if suspects >> number & 1]
    return min(numbers, key=lambda n: abs((before[n] & suspects).bit_count() + 1 - half))


def describe(model: ir.Model, name: str) -> str:
    """Names the layer that makes a value, as the model's file names it."""
    value = _before_pair(model, name)
    node = value.producer()
    if node is None:
        return f"the input {value.name!r}"
    return f"{node.op_type} {node.name or value.name!r}"


def paired_name(model: ir.Model, name: str) -> str:
    """Returns the name of the value that a pair rounds, or of the value itself without a pair."""
    return str(_before_pair(model, name).name)


def _before_pair(model: ir.Model, name: str) -> ir.Value:
    value = next(value for node in model.graph for value in node.outputs if value.name == name)
    while (node := value.producer()) is not None and node.op_type in _PAIR:
        source = node.inputs[0]
        assert source is not None
        value = source
    return value
