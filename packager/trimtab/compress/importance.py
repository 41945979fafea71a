"""How much each class of channels matters. The least go first.

- `l2`: the squared norms of its weights. Needs no data.
- `taylor`: how much the loss changes, to first order, without it: the sum of `|g w|` over its
  weights, with the mean gradient `g` (Molchanov et al. 2019, arXiv:1906.10771).
- `obd`: the same to second order, the sum of `h w^2 / 2` (LeCun et al. 1989, "Optimal Brain
  Damage", equation 5), with the diagonal of the empirical Fisher information for `h`.
- `batch_norm`: the scale of the batch norm behind it (Liu et al. 2017, arXiv:1708.06519). Only
  where the graph still has batch norms: loading folds them into the layers where it can.
- `random`: a control that any other criterion must beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from trimtab.errors import DataError, ModelError
from trimtab.graph.access import constant
from trimtab.graph.dependencies import Dependencies, Group

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Scores = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
Criterion = Literal["l2", "taylor", "obd", "batch_norm", "random"]


def score_groups(
    model: ir.Model,
    dependencies: Dependencies,
    criterion: Criterion,
    *,
    samples: int,
    context: Context | None,
) -> list[Scores]:
    """Score the classes of every group.

    Args:
        model: The model that was analysed.
        dependencies: What was found in it.
        criterion: By what.
        samples: How many training samples the gradients are gathered over.
        context: Gives data, teacher and seed; `l2` and `batch_norm` need none.

    Returns:
        For each group, one number per class, in the group's order; the higher stay.

    Raises:
        DataError: The criterion needs data and there is none.
        ModelError: It needs batch norms and a group has none.
        UnsupportedOperatorError: It needs gradients, and the engine lacks operators.
    """
    groups = dependencies.groups
    if criterion == "l2":
        return [squared_norms(model, dependencies, group) for group in groups]
    if criterion == "batch_norm":
        return [_batch_norm_scales(model, dependencies, group) for group in groups]
    if context is None:
        raise DataError(f"prune_channels: criterion {criterion!r} needs a context with a seed")
    if criterion == "random":
        random = np.random.default_rng(context.seed)
        return [random.random(len(group.classes)) for group in groups]
    values = _loss_changes(model, criterion, samples, context)
    return [_comparable(_mean_over_kernels(values, dependencies, group)) for group in groups]


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
    names = {name for name, _ in group.axes if name in dependencies.kernels}
    weights = {name: constant(model.graph.initializers[name]) for name in names}
    squares = {
        name: np.square(weight, dtype=np.float64)
        for name, weight in weights.items()
        if weight is not None
    }
    return _comparable(_mean_over_kernels(squares, dependencies, group))


def _comparable(scores: Scores) -> Scores:
    """Divide by the mean, so that the scores of different groups compare.

    Changes of the loss are in one unit already. Still, ranked as they are, the layers at the end
    of a trained model, whose gradients are least, were emptied to their minimum.
    """
    # Weights that are all zero rank by nothing: every class scores alike.
    return scores / scores.mean() if scores.any() else np.ones_like(scores)


def _mean_over_kernels(
    values: Mapping[str, Array], dependencies: Dependencies, group: Group
) -> Scores:
    """Sum values of single weights over the slices of each class, and average over kernels."""
    sums, kernels = np.zeros(len(group.classes)), 0
    for name, axis in group.axes:
        if name not in dependencies.kernels or name not in values:
            continue
        others = tuple(other for other in range(values[name].ndim) if other != axis)
        totals = values[name].sum(axis=others, dtype=np.float64)
        roots = dependencies.axes[name, axis]
        places = np.searchsorted(group.classes, roots)
        own = np.isin(roots, group.classes)
        np.add.at(sums, places[own], totals[own])
        kernels += 1
    return sums / max(kernels, 1)


def _batch_norm_scales(model: ir.Model, dependencies: Dependencies, group: Group) -> Scores:
    sums, found = np.zeros(len(group.classes)), 0
    for node in model.graph:
        if node.op_type != "BatchNormalization" or node.inputs[1] is None:
            continue
        name, scale = node.inputs[1].name, constant(node.inputs[1])
        if scale is None or (name, 0) not in group.axes:
            continue
        roots = dependencies.axes[str(name), 0]
        own = np.isin(roots, group.classes)
        np.add.at(sums, np.searchsorted(group.classes, roots)[own], np.abs(scale[own]))
        found += 1
    if not found:
        raise ModelError(
            f"prune_channels: criterion 'batch_norm' is not available: no batch norm follows "
            f"{group.name!r} (loading folds them into the layers); take `l2`, `taylor` or `obd`"
        )
    return sums / found


def _loss_changes(
    model: ir.Model, criterion: Criterion, samples: int, context: Context
) -> dict[str, Array]:
    """Estimate for every weight how the loss changes when it becomes zero."""
    if context.dataset is None:
        raise DataError(
            f"prune_channels: criterion {criterion!r} needs data for its gradients: give --data "
            "(labels are not needed), or take `l2`"
        )
    from trimtab.compress.teacher import teacher_answers
    from trimtab.engine.sensitivity import weight_gradients

    split = context.dataset.train
    chosen = np.random.default_rng(context.seed).permutation(len(split))[:samples]
    inputs = split.take(chosen)
    labels = None if split.labels is None else split.labels[chosen]
    answers = teacher_answers(context.teacher, inputs)
    gradients = weight_gradients(model, inputs, answers, labels)
    weights = {name: constant(model.graph.initializers[name]) for name in gradients.mean}
    if criterion == "taylor":
        return {n: np.abs(gradients.mean[n] * w) for n, w in weights.items() if w is not None}
    squared = gradients.squared
    return {n: 0.5 * squared[n] * np.square(w) for n, w in weights.items() if w is not None}
