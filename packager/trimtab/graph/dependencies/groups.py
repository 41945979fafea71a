"""Dependency groups: what is left once every node has had its say.

Labels are brought to a form in which dropping a class of atoms cuts whole slices out of tensors,
and classes that occur in the same tensors are gathered into groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from trimtab.graph.dependencies.atoms import FROZEN, LabelArray
from trimtab.graph.dependencies.labels import Labels, varying_axes

Axis = tuple[str, int]
"""An axis of a tensor: the name of its value and the number of the axis, from 0."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that are made and used by the same tensors, and can replace one another.

    Attributes:
        made: The kernel that makes them (the first, where several do) and the axis of it.
        classes: Their numbers. Dropping one cuts every slice that bears its number.
        width: How many channels of the narrowest feature map one class stands for: 1, the number
            of groups of a grouped convolution, or the features of an attention head.
        axes: Where they occur.
    """

    made: Axis
    classes: tuple[int, ...]
    width: int
    axes: tuple[Axis, ...]

    @property
    def name(self) -> str:
        """The kernel that makes the channels; groups that share one share the name."""
        return self.made[0]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A kernel that keeps all its channels.

    Attributes:
        name: Of the kernel.
        cause: Why, for people to read.
    """

    name: str
    cause: str


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """What can be cut from a graph.

    Attributes:
        groups: In the order in which the graph makes their channels.
        axes: The class of each slice along each axis that can lose slices; 0 is always kept.
        kernels: Names of the parameters that make channels.
        kept: Those of them that cannot lose any.
        reading: The axes of kernels that sum over channels.
        opaque_operators: Operators without a rule for what they do, around which all is kept.
    """

    groups: tuple[Group, ...]
    axes: Mapping[Axis, LabelArray]
    kernels: frozenset[str]
    kept: tuple[Kept, ...]
    reading: frozenset[Axis]
    opaque_operators: tuple[str, ...]

    def kept_by_cause(self) -> dict[str, list[str]]:
        """Return the names of the kernels that keep all their channels, by why they do."""
        names: dict[str, list[str]] = {}
        for kept in self.kept:
            names.setdefault(kept.cause, []).append(kept.name)
        return names

    def count(self, group: Group, classes: Iterable[int]) -> int:
        """Return how many channels the group's kernel makes for some of its classes."""
        return int(np.isin(self.axes[group.made], list(classes)).sum())


def collect(labels: Labels, opaque_operators: tuple[str, ...]) -> Dependencies:
    """Gather the groups. The labels' atoms are tied further on the way.

    Args:
        labels: The labels of a whole graph.
        opaque_operators: Passed on.
    """
    _make_rectangular(labels)
    _keep_whole_axes(labels)
    axes = {
        axis: roots
        for axis, vector in _vectors(labels)
        if (roots := labels.atoms.find(vector)).any()
    }
    places: dict[int, list[Axis]] = {}
    for axis, roots in axes.items():
        for root in np.unique(roots[roots != FROZEN]).tolist():
            places.setdefault(root, []).append(axis)
    by_places: dict[tuple[Axis, ...], list[int]] = {}
    for root in sorted(places):
        if labels.made.keys().isdisjoint(places[root]):
            continue  # a constant alone makes no channels
        by_places.setdefault(tuple(places[root]), []).append(root)
    groups = [_group(labels, axes, where, tuple(classes)) for where, classes in by_places.items()]
    return Dependencies(
        groups=tuple(groups),
        axes=axes,
        kernels=frozenset(labels.kernels),
        kept=tuple(_kept(labels, axes)),
        reading=frozenset(labels.reading),
        opaque_operators=opaque_operators,
    )


def _make_rectangular(labels: Labels) -> None:
    """Tie until each activation's atoms change along one axis only: a tensor has no holes.

    Of several axes the longest keeps its freedom, for it offers the finest choice.
    """
    changed = True
    while changed:
        changed = False
        for name, array in labels.activations.items():
            reduced = labels.reduced(array)
            varying = sorted(varying_axes(reduced), key=reduced.shape.__getitem__)
            labels.activations[name] = labels.tie_along(reduced, varying[:-1])
            changed = changed or len(varying) > 1


def _keep_whole_axes(labels: Labels) -> None:
    """Freeze a class that is all there is of an axis: a tensor may shrink, not vanish."""
    for _, vector in _vectors(labels):
        roots = labels.atoms.find(vector)
        if (roots == roots[0]).all() and roots[0] != FROZEN:
            labels.atoms.cause = _cause_of_one(labels, int(roots[0]))
            labels.atoms.freeze(roots[:1])


def _cause_of_one(labels: Labels, root: int) -> str:
    """Say why all of an axis is one class."""
    causes = (text for atom, text in labels.together if labels.atoms.find(np.array(atom)) == root)
    return next(causes, "none can go without all others")


def _kept(labels: Labels, axes: Mapping[Axis, LabelArray]) -> Iterator[Kept]:
    """Yield the kernels of which nothing can go."""
    for name, axis in labels.made:
        if (name, axis) not in axes:
            cause = labels.atoms.cause_of(int(labels.parameters[name][axis][0]))
            yield Kept(name=name, cause=cause or labels.fixed.get((name, axis), "it is kept"))


def _vectors(labels: Labels) -> Iterator[tuple[Axis, LabelArray]]:
    """Yield every axis that atoms lie along; an activation has one at most."""
    for name, array in labels.activations.items():
        yield (name, max(varying_axes(array), default=0)), array.reshape(-1)
    for name, vectors in labels.parameters.items():
        for axis, vector in enumerate(vectors):
            if vector.size:
                yield (name, axis), vector


def _group(
    labels: Labels,
    axes: Mapping[Axis, LabelArray],
    where: tuple[Axis, ...],
    classes: tuple[int, ...],
) -> Group:
    made = [axis for axis in where if axis in labels.made]
    channels = [int(np.isin(axes[axis], classes).sum()) * labels.made[axis] for axis in made]
    # Nodes are met in order, and so are kernels: the first is the one that makes the channels.
    return Group(made=made[0], classes=classes, width=min(channels) // len(classes), axes=where)
