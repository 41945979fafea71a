"""Weight pruning: single weights, runs or blocks of them become zero.

Zeros by themselves make no file smaller and no dense kernel faster. They pay on the wire, where
the weight codec packs them; N:M patterns and blocks also pay in runtimes with sparse kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from trimtab.compress.mask import (
    Mask,
    Scores,
    block_scores,
    cubic,
    keep_best,
    keep_n_of_m,
    spread_blocks,
)
from trimtab.compress.weight_scores import Criterion, score
from trimtab.compress.weights import Weight, counterparts, require_weights
from trimtab.errors import DataError, ModelError
from trimtab.graph.access import held, hold, set_initializer

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Positive = Annotated[int, msgspec.Meta(ge=1)]


class PruneWeights(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How many weights to set to zero, by either `sparsity` or `pattern`, and which.

    Attributes:
        sparsity: The share of the weights that become zero. Biases and the like do not count.
        pattern: `N:M`: of every M input channels in a row, N stay, as in `2:4`.
        scope: `global`: the least of all weights go. `layer`: the same share of each layer.
        block: Outputs and inputs of the blocks that go or stay as one, as in `[1, 16]`.
        criterion: What makes a weight matter; see `trimtab.compress.weight_scores`.
        rounds: Prune in so many rounds along a cubic schedule, training after each.
        epochs_per_round: Passes over the training samples after each round; 0 trains nothing.
        learning_rate: Of each round's training at its highest; by default what `fine_tune` takes.
    """

    sparsity: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    pattern: Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]?:[1-9][0-9]?$")] | None = None
    scope: Literal["global", "layer"] = "global"
    block: tuple[Positive, Positive] = (1, 1)
    criterion: Criterion = "magnitude"
    rounds: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    epochs_per_round: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None

    def __post_init__(self) -> None:
        """Checks what parameters mean together.

        Raises:
            ValueError: They exclude each other, or lack one; msgspec adds where.
        """
        if (self.sparsity is None) == (self.pattern is None):
            raise ValueError("give either `sparsity` or `pattern`, and not both")
        if self.pattern is not None and self.n_of_m[0] >= self.n_of_m[1]:
            raise ValueError(f"`pattern` {self.pattern!r} prunes nothing: N must be less than M")
        if self.pattern is not None and self.block != (1, 1):
            raise ValueError("give either `pattern` or `block`, and not both")
        if self.rounds > 1 and self.epochs_per_round == 0:
            raise ValueError("`rounds` train in between: give `epochs_per_round`, at least 1")

    @property
    def n_of_m(self) -> tuple[int, int]:
        """The two numbers of `pattern`."""
        assert self.pattern is not None
        kept, _, group = self.pattern.partition(":")
        return int(kept), int(group)


def apply(model: ir.Model, step: PruneWeights, context: Context) -> ir.Model:
    """Returns a copy with weights set to zero and held there. Each layer's share is logged.

    Raises:
        ModelError: The model has no weights to prune, or a layer would be left without any.
        DataError: The criterion or the training needs data and there is none.
        UnsupportedOperatorError: The same, and the training engine lacks operators.
    """
    weights = require_weights(model, "prune_weights")
    if step.epochs_per_round and context.dataset is None:
        raise DataError(
            "prune_weights: training between rounds needs data: give --data, or leave out "
            "`rounds` and `epochs_per_round`"
        )
    if step.pattern is not None:
        weights = _with_whole_runs(weights, step, context)
    result = model
    for number in range(1, step.rounds + 1):
        weights = counterparts(weights, result)
        scores = score(result, weights, step.criterion, context)
        if number == 1:
            # What the last round would do is tried first: a fault shows before any training.
            _check_left(weights, _masks(scores, weights, step, 1.0), step)
        masks = _masks(scores, weights, step, number / step.rounds)
        del scores  # of a large model they take as much as its weights
        result = _masked(result, weights, masks)
        if step.epochs_per_round:
            result = _train(result, step, number, context)
    _log(counterparts(weights, result), context)
    return result


def _with_whole_runs(weights: list[Weight], step: PruneWeights, context: Context) -> list[Weight]:
    """Leaves out the weights whose rows are shorter than a run, such as depthwise kernels."""
    _, group = step.n_of_m
    whole = [weight for weight in weights if weight.inputs >= group]
    for weight in weights:
        if weight.inputs < group:
            context.log(f"{weight.name}: stays dense, it has {weight.inputs} inputs a run")
    if not whole:
        raise ModelError(
            f"prune_weights: no weight has {group} input channels, which {step.pattern} needs"
        )
    return whole


def _masks(
    scores: Sequence[Scores], weights: Sequence[Weight], step: PruneWeights, part: float
) -> list[Mask]:
    """Chooses what stays after a part of the rounds, 0 to 1."""
    if step.sparsity is None:
        kept, group = step.n_of_m
        kept = group - round(cubic(group - kept, part))
        return [
            keep_n_of_m(matrix, kept, group, weight.inputs)
            for matrix, weight in zip(scores, weights, strict=True)
        ]
    sparsity = cubic(step.sparsity, part)
    if step.block == (1, 1):
        return _keep(scores, sparsity, step.scope)
    blocks = _keep([block_scores(matrix, step.block) for matrix in scores], sparsity, step.scope)
    return [
        spread_blocks(mask, step.block, matrix.shape)
        for mask, matrix in zip(blocks, scores, strict=True)
    ]


def _keep(scores: Sequence[Scores], sparsity: float, scope: str) -> list[Mask]:
    if scope == "global":
        return keep_best(scores, sparsity)
    return [keep_best([matrix], sparsity)[0] for matrix in scores]


def _check_left(weights: Sequence[Weight], masks: Sequence[Mask], step: PruneWeights) -> None:
    """Refuses to empty a layer: its outputs would no longer depend on the input."""
    for weight, mask in zip(weights, masks, strict=True):
        if not mask.any() and weight.array.any():
            raise ModelError(
                f"prune_weights: a sparsity of {step.sparsity} would leave none of the "
                f"{mask.size} weights of {weight.name!r}; prune less"
                + (", or give `scope: layer`" if step.scope == "global" else "")
            )


def _masked(model: ir.Model, weights: Sequence[Weight], masks: Sequence[Mask]) -> ir.Model:
    result = model.clone()
    for weight, mask in zip(counterparts(weights, result), masks, strict=True):
        kept = weight.unmatrix(mask)
        set_initializer(weight.value, np.where(kept, weight.array, np.float32(0)))
        if held(weight.value) is None:  # held clusters have zeros held already
            hold(weight.value, "zeros")
    return result


def _train(model: ir.Model, step: PruneWeights, number: int, context: Context) -> ir.Model:
    from trimtab.compress import fine_tune

    context.log(f"round {number} of {step.rounds}")
    training = fine_tune.FineTune(epochs=step.epochs_per_round, learning_rate=step.learning_rate)
    return fine_tune.apply(model, training, context)


def _log(weights: Sequence[Weight], context: Context) -> None:
    zeros = [weight.array.size - int(np.count_nonzero(weight.array)) for weight in weights]
    for weight, count in zip(weights, zeros, strict=True):
        context.log(f"{weight.name}: {count / weight.array.size:.1%} of the weights are zero")
    total = sum(weight.array.size for weight in weights)
    context.log(f"pruned layers together: {sum(zeros) / total:.1%} of the weights are zero")
