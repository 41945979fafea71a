"""How much each class of channels matters, judged by its weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from trimtab.graph.access import constant
from trimtab.graph.dependencies import Dependencies, Group

Scores = npt.NDArray[np.float64]


def squared_norms(model: ir.Model, dependencies: Dependencies, group: Group) -> Scores:
    """Score the classes of a group by the squared L2 norms of their slices.

    A class's slices are taken from every kernel that makes or reads its channels, for a channel
    that no later layer listens to is as useless as one that is never active (DepGraph, Fang et
    al. 2023, section 3.3). Biases and batch norms do not count.

    Args:
        model: The model that was analysed.
        dependencies: What was found in it.
        group: One of its groups.

    Returns:
        One score per class, in the group's order: the mean over the kernels, divided by its mean
        over the classes, so that layers whose weights differ in scale compare. Shape (classes,).
    """
    sums = np.zeros(len(group.classes))
    for name, axis in group.axes:
        if name not in dependencies.kernels:
            continue
        weight = constant(model.graph.initializers[name])
        assert weight is not None
        others = tuple(other for other in range(weight.ndim) if other != axis)
        norms = np.square(weight, dtype=np.float64).sum(axis=others)
        roots = dependencies.axes[name, axis]
        places = np.searchsorted(group.classes, roots)
        own = np.isin(roots, group.classes)
        np.add.at(sums, places[own], norms[own])
    # Weights that are all zero rank by nothing: every class scores alike.
    return sums / sums.mean() if sums.any() else np.ones_like(sums)
