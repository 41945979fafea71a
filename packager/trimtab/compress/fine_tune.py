"""The step `fine_tune`: train a changed model towards the original one, and the labels if any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.teacher import Teacher, teacher_answers
from trimtab.errors import DataError
from trimtab.evaluate.plugin import call_plugin, load_plugin

if TYPE_CHECKING:
    from trimtab.compress.context import Context
    from trimtab.engine.feed import Augment
    from trimtab.engine.schedule import Schedule

Array = NDArray[Any]

Plugin = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class Training(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What every technique that trains takes.

    Attributes:
        epochs: Passes over the training samples.
        learning_rate: At its highest; it falls from there to zero along half a cosine. By default
            0.004 where batch norms are brought back, 0.001 where they are not.
        batch_size: Samples a step.
        temperature: Softening of the original model's answers (Hinton et al. 2015).
        label_share: Weight of labels, where there are any, against the original's answers.
        optimizer: The rule of a step.
        momentum: Of `sgd`.
        weight_decay: Of `adamw` and `sgd`; not of biases.
        warmup: Share of the steps over which the rate rises from zero.
        patience: Epochs without a better one after which training stops.
        reinflate: Whether convolutions are trained with batch norms behind them, where there are
            samples enough; they are folded back at the end.
        augment: `module:function` that takes and returns a batch of inputs, a list of arrays with
            samples along axis 0. What it draws from numpy's global generator is seeded.
    """

    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 64
    temperature: Annotated[float, msgspec.Meta(ge=1, le=20)] = 2.0
    label_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    warmup: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    patience: Annotated[int, msgspec.Meta(ge=1)] | None = None
    reinflate: bool = True
    augment: Plugin | None = None

    def __post_init__(self) -> None:
        """Check that no parameter is given that the optimizer would not use.

        Raises:
            ValueError: One is; msgspec adds where.
        """
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError("`adam` has no `weight_decay`; take `adamw`")

    def schedule(self, seed: int) -> Schedule:
        """Returns these parameters as the engine takes them."""
        from trimtab.engine.schedule import Schedule

        fields = {field: getattr(self, field) for field in Training.__struct_fields__}
        del fields["augment"]
        return Schedule(**fields, seed=seed)


class FineTune(Training, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Trains all weights for a few epochs and keeps the best epoch's."""


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
    from trimtab.engine.train import check_trainable

    check_trainable(model, len(context.dataset.train))
    trained = model.clone()
    with context.keeping(trained):
        train_towards_teacher(trained, step, context)
    return trained


def train_towards_teacher(model: ir.Model, step: Training, context: Context) -> None:
    """Trains a model in place, towards the original's answers and the labels if there are any.

    Args:
        model: The graph to train; after an interrupt it has its best epoch.
        step: How long and how fast.
        context: Gives the data, of which there is some, the teacher and the seed.

    Raises:
        DataError: There is too little data, or its labels do not fit the outputs.
        ModelError: The graph has a fixed batch, or training went wrong.
        UnsupportedOperatorError: The training engine lacks operators of the graph.
        KeyboardInterrupt: Somebody has had enough.
    """
    from trimtab.engine import train

    assert context.dataset is not None, "the caller has looked"
    augment = load_augment(step)
    augmentation = augment and train.Augmentation(augment, Teacher(context.teacher))
    split = context.dataset.train
    history = train.fine_tune(
        model,
        split.columns,
        teacher_answers(context.teacher, split.columns),
        split.labels,
        step.schedule(context.seed),
        augmentation=augmentation,
        on_epoch=lambda loss: log_epoch(context, step, loss),
    )
    log_outcome(context, step, history)


def load_augment(step: Training) -> Augment | None:
    """Returns the user's function that changes inputs, or None.

    Raises:
        DataError: There is no such function; or, when it is called, it fails.
    """
    if step.augment is None:
        return None
    name, function = step.augment, load_plugin(step.augment)

    def augment(inputs: Sequence[Array]) -> Sequence[Array]:
        changed: Sequence[Array] = call_plugin(name, function, inputs)
        return changed

    return augment


def log_epoch(context: Context, step: Training, loss: Any) -> None:
    """Says how far training is."""
    context.log(
        f"epoch {loss.epoch}/{step.epochs}: loss {loss.training:.4f}, "
        f"held back {loss.validation:.4f}"
    )


def log_outcome(context: Context, step: Training, history: Sequence[Any]) -> None:
    """Says which epoch was kept, and why training ended before its time if it did."""
    finite = [loss for loss in reversed(history) if math.isfinite(loss.validation)]
    best = min(finite, key=lambda loss: loss.validation)
    if len(history) <= step.epochs:
        context.log(f"training ended after {len(history) - 1} of {step.epochs} epochs")
    if best is not history[-1]:
        context.log(
            f"the weights of epoch {best.epoch} are kept: they did best on what was held back"
        )
