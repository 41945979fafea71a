"""What each group of channels means to the answers, measured by pruning it alone.

As in Li et al. 2017 (arXiv:1608.08710, section 3.2), who prune each layer alone and look at the
accuracy; here also without labels, by agreement with the unpruned model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from trimtab.compress.allocation import Damage
from trimtab.compress.selection import best_places, nearest
from trimtab.evaluate.metrics import agreement, top1
from trimtab.graph.dependencies import Dependencies, remove_channels
from trimtab.graph.run import run_graph

Array = npt.NDArray[Any]

_KEPT_SHARES = (0.75, 0.5, 0.25, 0.125)


def scan(
    model: ir.Model,
    dependencies: Dependencies,
    scores: Sequence[npt.NDArray[np.float64]],
    allowed: Sequence[Sequence[int]],
    *,
    loss: Callable[[Array], float],
    inputs: Sequence[Array],
) -> list[Damage]:
    """Prune each group alone at several shares and measure what is lost.

    Args:
        model: The model that was analysed.
        dependencies: What was found in it.
        scores: For each group, one number per class; the weakest go first.
        allowed: For each group, how many classes it may keep.
        loss: Says how bad answers are; 0 for those of the model itself.
        inputs: Samples to run on, one array per input.
    """
    damages = []
    for group, ranks, counts in zip(dependencies.groups, scores, allowed, strict=True):
        levels = {nearest(share * counts[-1], counts) for share in _KEPT_SHARES} - {counts[-1]}
        falling = sorted(levels, reverse=True)
        losses = [0.0]
        for count in falling:
            gone = np.delete(group.classes, best_places(ranks, count)).tolist()
            pruned = remove_channels(model, dependencies, gone)
            losses.append(loss(run_graph(pruned, inputs)[0]))
        damages.append(Damage((counts[-1], *falling), tuple(losses)))
    return damages


def answer_loss(reference: Array, labels: Array | None) -> Callable[[Array], float]:
    """Return a function that says how bad answers are, compared with the unpruned model's.

    Classifiers lose the share of samples that they answer otherwise or, with labels, the accuracy.
    What such counts cannot tell apart, the mean relative error of the outputs decides, weighted as
    one sample at most. Of other models the relative error is all there is.

    Args:
        reference: The unpruned model's outputs, samples along axis 0.
        labels: Class numbers, or None.
    """
    spread = float(reference.std()) or 1.0

    def error(outputs: Array) -> float:
        return float(np.sqrt(np.mean(np.square(outputs - reference, dtype=np.float64)))) / spread

    if reference.ndim != 2 or reference.shape[1] < 2:
        return error

    def loss(outputs: Array) -> float:
        if labels is None:
            lost = 1 - agreement(outputs, reference)
        else:
            lost = top1(reference, labels) - top1(outputs, labels)
        return lost + min(error(outputs), 1.0) / len(reference)

    return loss
