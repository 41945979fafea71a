"""How much each single weight matters, by four criteria. The least go first.

- `magnitude`: the square of its size. Needs no data.
- `taylor`: how much the loss changes, to first order, when it becomes zero: `|g w|`, with the
  mean gradient `g` (Molchanov et al. 2019, arXiv:1906.10771, equation 8, for single weights;
  Lee et al. 2019, arXiv:1810.02340, call it connection sensitivity).
- `obd`: the same to second order, `h w^2 / 2` (LeCun et al. 1989, "Optimal Brain Damage",
  equation 5), with the mean squared gradient, the diagonal of the empirical Fisher information,
  for `h`.
- `random`: a control that any other criterion must beat.

To compare layers, a score is divided by the sum of those in its layer that are no smaller (Lee et
al. 2021, arXiv:2010.07611, "LAMP", for magnitude). Bare sizes starve layers whose weights are small
because a folded batch norm scales their inputs: ResNet-8/digits, pruned to 80 % at once and trained
2 epochs, came back to 0.30 by bare sizes over all layers, to 0.60 by the same share of each layer,
and to 0.97 so. Bare changes of the loss empty layers whose gradients are least, such as queries and
keys of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.mask import Scores
from trimtab.compress.weights import Weight
from trimtab.errors import DataError

if TYPE_CHECKING:
    from trimtab.compress.context import Context
    from trimtab.engine.sensitivity import Gradients

Criterion = Literal["magnitude", "taylor", "obd", "random"]

_GRADIENT_SAMPLES = 512
"""A rank needs no more: each is one more noisy estimate of the same mean."""


def score(
    model: ir.Model, weights: Sequence[Weight], criterion: Criterion, context: Context
) -> list[Scores]:
    """Scores every weight; one that is zero scores 0, the least there is.

    Args:
        model: The graph of the weights.
        weights: What to score.
        criterion: By what.
        context: Gives the data, the teacher and the seed.

    Returns:
        One matrix for each weight, float32, laid out as `Weight.matrix` does.

    Raises:
        DataError: The criterion needs data and there is none.
        UnsupportedOperatorError: It needs gradients, and the engine lacks operators.
    """
    if criterion == "random":
        return _random(weights, context.seed)
    if criterion == "magnitude":
        return [_layer_adaptive(weight.matrix(weight.array)) for weight in weights]
    gradients = _gradients(model, criterion, context)
    scores = []
    for weight in weights:
        if criterion == "taylor":
            roots = np.sqrt(np.abs(gradients.mean[weight.name] * weight.array))
        else:
            roots = np.sqrt(gradients.squared[weight.name]) * weight.array
        scores.append(_layer_adaptive(weight.matrix(roots)))
    return scores


def _layer_adaptive(roots: NDArray[np.float32]) -> Scores:
    """Scores by the squares of some values; within a layer the largest scores 1.

    Worked out in place: of a large layer each array in float64 is twice its weights.
    """
    sizes = np.abs(roots).ravel()
    order = np.argsort(sizes)
    sizes = sizes[order]
    ratio = np.square(sizes, dtype=np.float64)
    np.cumsum(ratio[::-1], out=ratio[::-1])  # the squares that are no smaller
    ratio[ratio == 0] = 1
    np.square(np.divide(sizes, np.sqrt(ratio, out=ratio), out=ratio), out=ratio)
    scores = np.empty(sizes.shape, np.float32)
    scores[order] = ratio
    return scores.reshape(roots.shape)


def _random(weights: Sequence[Weight], seed: int) -> list[Scores]:
    random = np.random.default_rng(seed)
    scores = []
    for weight in weights:
        matrix = weight.matrix(weight.array)
        drawn = 1 - random.random(matrix.shape, np.float32)  # above 0, which zeros have
        scores.append(np.where(matrix != 0, drawn, np.float32(0)))
    return scores


def _gradients(model: ir.Model, criterion: Criterion, context: Context) -> Gradients:
    if context.dataset is None:
        raise DataError(
            f"prune_weights: criterion {criterion!r} needs data for its gradients: give --data "
            "(labels are not needed), or take `magnitude`"
        )
    from trimtab.compress.teacher import teacher_answers
    from trimtab.engine.sensitivity import weight_gradients

    split = context.dataset.train
    chosen = np.random.default_rng(context.seed).permutation(len(split))[:_GRADIENT_SAMPLES]
    samples = split.take(chosen)
    labels = None if split.labels is None else split.labels[chosen]
    answers = teacher_answers(context.teacher, samples)
    return weight_gradients(model, samples, answers, labels)
