"""The step `fine_tune`: train a changed model towards the original one, and the labels if any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import onnx_ir as ir

from trimtab.compress.teacher import teacher_answers
from trimtab.errors import DataError

if TYPE_CHECKING:
    from trimtab.compress.context import Context


class FineTune(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Trains all weights for a few epochs and keeps the best epoch's.

    Attributes:
        epochs: Passes over the training samples.
        learning_rate: Of Adam at the start; it falls to zero along half a cosine.
        batch_size: Samples a step.
        temperature: Softening of the original model's answers (Hinton et al. 2015).
    """

    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-3
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 64
    temperature: Annotated[float, msgspec.Meta(ge=1, le=20)] = 2.0


def apply(model: ir.Model, step: FineTune, context: Context) -> ir.Model:
    """Returns a trained copy of `model`.

    Args:
        model: The graph to train; its inputs and outputs are those of the original.
        step: How long and how fast.
        context: Gives the data, the original model as the teacher, and the seed.

    Raises:
        DataError: There is no data, or too little, or its labels do not fit the outputs.
        ModelError: The graph has a fixed batch.
        UnsupportedOperatorError: The training engine lacks operators of the graph.
    """
    if context.dataset is None:
        raise DataError("fine_tune needs data: give --data, or leave the step out")
    from trimtab.engine import train

    trained = model.clone()
    split = context.dataset.train
    schedule = train.Schedule(
        epochs=step.epochs,
        learning_rate=step.learning_rate,
        batch_size=step.batch_size,
        temperature=step.temperature,
        seed=context.seed,
    )
    train.fine_tune(
        trained,
        split.inputs,
        teacher_answers(context.teacher, split.inputs),
        split.labels,
        schedule,
        on_epoch=lambda loss: context.log(
            f"epoch {loss.epoch}/{step.epochs}: loss {loss.training:.4f}, "
            f"held back {loss.validation:.4f}"
        ),
    )
    return trained
