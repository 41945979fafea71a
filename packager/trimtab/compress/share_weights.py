"""Weight sharing: each weight takes one of a few values that k-means finds.

The weights stay float32, so that every runtime runs them and neither file nor memory shrinks.
It pays on the wire, where few distinct values pack well: the weight codec sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.kmeans import centres, nearest, summarise
from trimtab.compress.weights import Weight, counterparts, require_weights
from trimtab.errors import DataError
from trimtab.graph.access import hold, set_initializer

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Array = NDArray[Any]
Part = tuple[int, slice]
"""Number of a weight, and rows of its matrix."""


class ShareWeights(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How many values, and which weights share them.

    Attributes:
        values: How many distinct values, zero included where there are zeros, which stay zero.
        scope: `tensor`: each weight tensor has values of its own. `channels`: each group of
            output channels. `model`: all tensors have the same.
        channels: Output channels in a group, for scope `channels`.
        epochs: Passes over the training samples afterwards, in which the values move and no
            weight leaves its cluster; 0 trains nothing.
        learning_rate: Of that training at its highest; by default what `fine_tune` takes.
    """

    values: Annotated[int, msgspec.Meta(ge=2, le=256)] = 32
    scope: Literal["tensor", "channels", "model"] = "tensor"
    channels: Annotated[int, msgspec.Meta(ge=1)] = 1
    epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None


def apply(model: ir.Model, step: ShareWeights, context: Context) -> ir.Model:
    """Returns a copy whose weights share few values, held from now on.

    Raises:
        ModelError: The model has no float32 weights, or one that is not finite.
        DataError: Training was wished and there is no data.
        UnsupportedOperatorError: The same, and the training engine lacks operators.
    """
    weights = require_weights(model, "share_weights", tables=True)
    if step.epochs and context.dataset is None:
        raise DataError(
            "share_weights: training the values needs data: give --data, or leave out `epochs`"
        )
    result = model.clone()
    shared = counterparts(weights, result)
    matrices = [np.array(weight.matrix(weight.array)) for weight in shared]
    for parts in _groups(matrices, step):
        _share([matrices[number][rows] for number, rows in parts], step.values)
    for weight, matrix in zip(shared, matrices, strict=True):
        set_initializer(weight.value, weight.unmatrix(matrix))
        hold(weight.value, "model_clusters" if step.scope == "model" else "clusters")
    if step.epochs:
        result = _train(result, step, context)
    _log(counterparts(weights, result), context)
    return result


def _groups(matrices: Sequence[Array], step: ShareWeights) -> Iterator[list[Part]]:
    """Yields what shares one set of values."""
    if step.scope == "model":
        yield [(number, slice(None)) for number in range(len(matrices))]
        return
    for number, matrix in enumerate(matrices):
        size = step.channels if step.scope == "channels" else len(matrix)
        for start in range(0, len(matrix), size):
            yield [(number, slice(start, start + size))]


def _share(parts: Sequence[Array], values: int) -> None:
    """Replaces the values of some arrays, in place, by at most so many distinct ones.

    Zeros are left out of k-means and count as one of the values.
    """
    nonzero = [part[part != 0] for part in parts]
    has_zeros = any(kept.size < part.size for kept, part in zip(nonzero, parts, strict=True))
    if not any(kept.size for kept in nonzero):
        return
    summary = summarise(kept for kept in nonzero if kept.size)
    found = centres(summary, values - 1 if has_zeros else values)
    for part, kept in zip(parts, nonzero, strict=True):
        part[part != 0] = nearest(kept, found)


def _train(model: ir.Model, step: ShareWeights, context: Context) -> ir.Model:
    from trimtab.compress import fine_tune

    training = fine_tune.FineTune(epochs=step.epochs, learning_rate=step.learning_rate)
    return fine_tune.apply(model, training, context)


def _log(weights: Sequence[Weight], context: Context) -> None:
    for weight in weights:
        context.log(f"{weight.name}: {np.unique(weight.array).size} distinct values")
