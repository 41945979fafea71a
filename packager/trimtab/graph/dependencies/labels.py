"""Labels: which atom every element of every tensor belongs to.

An activation carries one array of atoms that broadcasts to its shape: an axis along which the atom
does not change has length 1. A feature map of shape (batch, 16, 28, 28) behind a convolution
carries (1, 16, 1, 1); flattened to (batch, 12544) it carries (1, 12544), with each of the 16 atoms
784 times. So a layout is never assumed: reshaping and transposing the array is all that a Reshape
or a Transpose needs, and axes of unknown length, such as the batch, simply have length 1. Along an
axis of unknown length the atoms may repeat instead: where heads are merged with the batch, as
PyTorch does it, an axis of `batch * 4` carries the atoms of 4 heads, over and over.

A parameter (an initializer) is indexed by two sets of atoms at once, those that a layer makes and
those that it consumes. It carries one vector of atoms for each of its axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from trimtab.graph.dependencies.atoms import FROZEN, Atoms, LabelArray
from trimtab.graph.shapes import Formulas, Lengths


def dimensions(value: ir.Value) -> tuple[int | None, ...]:
    """Return the length of each axis, None where it is known only at run time.

    Raises:
        ValueError: The rank of `value` is unknown.
    """
    if value.shape is None:
        raise ValueError(f"the rank of {value.name} is unknown")
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def frozen(rank: int) -> LabelArray:
    """Return the labels of a tensor of this rank that nothing may be removed from."""
    return np.full((1,) * rank, FROZEN, dtype=np.int64)


def varying_axes(labels: LabelArray) -> list[int]:
    """Return the axes along which the atom changes."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


class Labels:
    """The labels of a graph while they are worked out.

    Attributes:
        atoms: The atoms and the ties between them.
        opset: Version of the ONNX operator set that the graph imports.
        formulas: The graph's lengths, as far as they are known.
        across_norms: Says whether what is normalised together may lose some of its members.
        activations: Labels of each graph input and node output, by the name of the value.
        parameters: One vector for each axis of each initializer that was met, by its name.
        kernels: Names of the parameters that make channels: weights of convolutions and the like.
        made: For each axis of a kernel that makes channels, how many channels of a feature map
            each slice of it stands for.
        reading: The axes of kernels whose slices are multiplied with channels and summed up.
    """

    def __init__(self, opset: int, formulas: Formulas, *, across_norms: bool = False) -> None:
        self.atoms = Atoms()
        self.opset = opset
        self.across_norms = across_norms
        self.formulas = formulas
        self.activations: dict[str, LabelArray] = {}
        self.parameters: dict[str, list[LabelArray]] = {}
        self.kernels: set[str] = set()
        self.made: dict[tuple[str, int], int] = {}
        self.fixed: dict[tuple[str, int], str] = {}
        self.together: list[tuple[int, str]] = []
        self.reading: set[tuple[str, int]] = set()

    def of(self, value: ir.Value) -> LabelArray:
        """Return the labels of a tensor that an operator reads as data.

        An initializer that is read so, such as a constant part of a Concat, is kept whole.
        """
        if is_parameter(value):
            self.set_parameter(value, {})
        name = name_of(value)
        if name not in self.activations:
            return frozen(len(dimensions(value)))
        return self.activations[name]

    def of_constant(self, value: ir.Value) -> LabelArray:
        """Return new labels of an initializer that is read as data, such as a class token.

        It may lose what the rest loses along its longest axis, and is kept whole along the others.
        """
        shape = _static(value)
        if not shape or max(shape) < 2:
            return self.of(value)
        axis = int(np.argmax(shape))
        fresh = self.atoms.create(shape[axis])
        self.set_parameter(value, {axis: fresh})
        return along(fresh, axis, len(shape))

    def lengths(self, value: ir.Value) -> Lengths:
        """Return the length of each axis of a tensor of known rank, as numbers or formulas."""
        return self.formulas.shapes[value]

    def set_activation(self, value: ir.Value, labels: LabelArray) -> None:
        """Give a graph input or a node output its labels."""
        self.activations[name_of(value)] = self.reduced(labels)

    def reduced(self, labels: LabelArray) -> LabelArray:
        """Return the roots of labels, cut to length 1 along axes on which they are all equal."""
        labels = self.atoms.find(labels)
        for axis in varying_axes(labels):
            first = labels.take([0], axis)
            labels = first if bool((labels == first).all()) else labels
        return labels

    def set_parameter(self, value: ir.Value, vectors: Mapping[int, LabelArray]) -> None:
        """Record that a node reads an initializer.

        Args:
            value: The initializer, of known shape.
            vectors: For each axis that may lose slices, its atoms. Every other axis is kept whole,
                also where another node would let it shrink.
        """
        used = [
            np.broadcast_to(vectors.get(axis, np.array(FROZEN)), (size,))
            for axis, size in enumerate(_static(value))
        ]
        known = self.parameters.setdefault(name_of(value), used)
        for vector, before in zip(used, known, strict=True):
            self.atoms.tie(vector, before)

    def add_kernel(self, value: ir.Value, axis: int | None = None, *, channels: int = 1) -> None:
        """Record that a parameter makes channels.

        Args:
            value: The parameter.
            axis: The axis of it that counts them, if this one is to count them.
            channels: How many channels of a feature map one slice along that axis stands for.
        """
        self.kernels.add(name_of(value))
        if axis is not None:
            self.made.setdefault((name_of(value), axis), channels)
            if self.parameters[name_of(value)][axis][0] == FROZEN:
                self.fixed[name_of(value), axis] = self.atoms.cause

    def add_reader(self, value: ir.Value, axis: int) -> None:
        """Record that a kernel sums over the channels along one of its axes."""
        self.reading.add((name_of(value), axis))

    def freeze(self, value: ir.Value) -> None:
        """Keep all of a tensor."""
        if is_parameter(value):
            self.set_parameter(value, {})
        elif (labels := self.activations.get(name_of(value))) is not None:
            self.atoms.freeze(labels)

    def tie_along(self, labels: LabelArray, axes: Iterable[int]) -> LabelArray:
        """Keep or drop together whatever differs only in its place along `axes`.

        Returns:
            The labels with those axes of length 1.
        """
        for axis in axes:
            first = labels.take([0], axis)
            self.atoms.tie(labels, first)
            labels = first
        return labels

    def tie_because(self, labels: LabelArray, axes: Iterable[int], cause: str) -> LabelArray:
        """As `tie_along`, and remember what ties them, for where nothing of them can go."""
        tied = self.tie_along(labels, axes)
        self.together += [(int(atom), cause) for atom in np.unique(tied)]
        return tied

    def vector(self, labels: LabelArray, axis: int, size: int) -> LabelArray:
        """Tie along all other axes and return the atoms of one axis, shape (size,)."""
        axis %= labels.ndim
        others = [other for other in varying_axes(labels) if other != axis]
        return np.broadcast_to(self.tie_along(labels, others).reshape(-1), (size,))


def along(vector: LabelArray, axis: int, rank: int) -> LabelArray:
    """Lay a vector of atoms along one axis of a tensor of the given rank."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def is_parameter(value: ir.Value | None) -> bool:
    """Say whether this is an initializer with a value that callers of the model cannot replace."""
    return (
        value is not None
        and value.is_initializer()
        and not value.is_graph_input()
        and value.const_value is not None
    )


def name_of(value: ir.Value) -> str:
    """Return the name of a value, which ONNX demands of all values in a graph."""
    assert value.name is not None
    return value.name


def _static(value: ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())
