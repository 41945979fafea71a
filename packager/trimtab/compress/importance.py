"""How much each class of channels matters. The least go first.

A channel goes by leaving it out of the sums that later layers form, so what is looked at is the
slices of weights that read it, and not those that make it: where a batch norm was folded into a
layer, they are divided by the spread of its outputs, and the quietest channel has the largest
weights. (Of ResNet-8's channels, norms of what makes them rank against the loss without them, with
Spearman's correlation -0.2 to 0.5 by group; norms of what reads them with 0.4 to 0.8.) Without
norms training itself keeps both sides alike (Du et al. 2018, arXiv:1806.00900, theorem 2.1).

- `l2`: the squared norms of those slices. Needs no data.
- `taylor`: how much the loss changes without the channel, to first order: the mean over batches of
  `|sum of g w|` over its slices, with the gradient `g`. The sum is the gradient by a gate on the
  channel (Molchanov et al. 2017, arXiv:1611.06440, equation 7), so it is taken before the modulus:
  single weights of a channel go together and may cancel out.
- `obd`: the same to second order, `h / 2` (LeCun et al. 1989, "Optimal Brain Damage", equation 5),
  with the Fisher information of the gate for `h` (Theis et al. 2018, arXiv:1801.05787, equation 6).
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
from trimtab.graph.dependencies.groups import Axis

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Scores = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
Criterion = Literal["l2", "taylor", "obd", "batch_norm", "random"]

_GATE_BATCH = 8
"""Gradients of more samples cancel out before they are squared; of fewer they cost more."""

_TEMPERATURE = 4.0
"""Where a model fits what it was trained on, the loss of labels is all but zero, and the few
samples that it is unsure of alone would speak. Softened, each has a say."""


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
        return [_squared_norms(model, dependencies, group) for group in groups]
    if criterion == "batch_norm":
        return [_batch_norm_scales(model, dependencies, group) for group in groups]
    if context is None:
        raise DataError(f"prune_channels: criterion {criterion!r} needs a context with a seed")
    if criterion == "random":
        random = np.random.default_rng(context.seed)
        return [random.random(len(group.classes)) for group in groups]
    return [
        _comparable(changes)
        for changes in _loss_changes(model, dependencies, criterion, samples, context)
    ]


def _squared_norms(model: ir.Model, dependencies: Dependencies, group: Group) -> Scores:
    """Return the mean over the layers that read the group, each divided by its own mean.

    So layers whose weights differ in scale compare, within a group and between groups.
    """
    totals = []
    for axis in _read_axes(dependencies, group):
        weight = constant(model.graph.initializers[axis[0]])
        if weight is not None:
            squares = np.square(weight, dtype=np.float64)
            totals.append(_comparable(_by_class(squares, axis, dependencies, group)))
    norms: Scores = np.mean(totals, axis=0) if totals else np.ones(len(group.classes))
    return norms * _is_made(model, dependencies, group)


def _is_made(model: ir.Model, dependencies: Dependencies, group: Group) -> Scores:
    """Return 0 for classes whose channels are zero, because all that makes them is; else 1."""
    made = np.zeros(len(group.classes))
    for axis in group.axes:
        value = model.graph.initializers.get(axis[0])
        weight = None if axis in dependencies.reading or value is None else constant(value)
        if weight is not None:
            made += _by_class(np.abs(weight), axis, dependencies, group)
    return (made > 0).astype(np.float64)


def _comparable(scores: Scores) -> Scores:
    """Divide by the mean, so that the scores of different groups compare.

    Changes of the loss are in one unit already. Still, ranked as they are, the layers at the end
    of a trained model, where each of many channels means little, were emptied to their minimum:
    what is lost without all of them is more than the sum.
    """
    # Weights that are all zero rank by nothing: every class scores alike.
    return scores / scores.mean() if scores.any() else np.ones_like(scores)


def _read_axes(dependencies: Dependencies, group: Group) -> list[Axis]:
    """Return where kernels read the group; where none does, where they make it."""
    kernels = [axis for axis in group.axes if axis[0] in dependencies.kernels]
    return [axis for axis in kernels if axis in dependencies.reading] or kernels


def _by_class(values: Array, axis: Axis, dependencies: Dependencies, group: Group) -> Scores:
    """Sum values of single weights over the slices of each class of a group."""
    others = tuple(other for other in range(values.ndim) if other != axis[1])
    totals = values.sum(axis=others, dtype=np.float64)
    roots = dependencies.axes[axis]
    own = np.isin(roots, group.classes)
    sums = np.zeros(len(group.classes))
    np.add.at(sums, np.searchsorted(group.classes, roots[own]), totals[own])
    return sums


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
    model: ir.Model,
    dependencies: Dependencies,
    criterion: Criterion,
    samples: int,
    context: Context,
) -> list[Scores]:
    """Estimate how the loss changes without each class of each group."""
    if context.dataset is None:
        raise DataError(
            f"prune_channels: criterion {criterion!r} needs data for its gradients: give --data "
            "(labels are not needed), or take `l2`"
        )
    from trimtab.compress.teacher import teacher_answers
    from trimtab.engine.sensitivity import gradient_batches, probing_targets

    split = context.dataset.train
    chosen = np.random.default_rng(context.seed).permutation(len(split))[:samples]
    inputs = [array[chosen] for array in split.inputs]
    labels = None if split.labels is None else split.labels[chosen]
    targets = probing_targets(model, teacher_answers(context.teacher, inputs), labels)
    changes = [np.zeros(len(group.classes)) for group in dependencies.groups]
    batches = gradient_batches(
        model,
        inputs,
        targets,
        labels,
        batch=_GATE_BATCH,
        temperature=_TEMPERATURE,
        label_share=0.0,
    )
    for size, gradients in batches:
        for index, group in enumerate(dependencies.groups):
            gates = _gate_gradients(model, dependencies, group, gradients) * size
            changes[index] += np.abs(gates) if criterion == "taylor" else np.square(gates) / 2
    return changes


def _gate_gradients(
    model: ir.Model, dependencies: Dependencies, group: Group, gradients: Mapping[str, Array]
) -> Scores:
    """Return the gradient of the loss by a factor on each class's channels, which is now 1."""
    gates = np.zeros(len(group.classes))
    for axis in _read_axes(dependencies, group):
        weight = constant(model.graph.initializers[axis[0]])
        if weight is not None and axis[0] in gradients:
            gates += _by_class(gradients[axis[0]] * weight, axis, dependencies, group)
    return gates
