"""How long, how fast and by which rule to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

OptimizerName = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How to train.

    Attributes:
        epochs: Passes over the samples.
        learning_rate: At its highest; it falls from there to zero along half a cosine
            (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts).
        batch_size: Samples a step.
        temperature: Softening of the teacher's answers.
        seed: Of the order of samples and of the held-back share.
        label_share: Weight of labels, where there are any, against the teacher: 0 to 1.
        optimizer: Adam, AdamW (decoupled weight decay), or SGD with Nesterov's momentum.
        momentum: Of SGD.
        weight_decay: Of AdamW and SGD, per step and relative to the learning rate; not of biases.
        warmup: Share of the steps over which the rate rises from zero.
        patience: Epochs without a better one after which training stops; None to never stop early.
        reinflate: Whether convolutions are trained with batch norms behind them; see
            `trimtab.engine.batch_norm`.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    temperature: float
    seed: int
    label_share: float = 0.5
    optimizer: OptimizerName = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup: float = 0.0
    patience: int | None = None
    reinflate: bool = False


def make_optimizer(schedule: Schedule, steps: int, variables: list[Any]) -> Any:
    """Returns a Keras optimizer for `variables`, its rate scheduled over `steps` steps."""
    import keras

    warmup = round(steps * schedule.warmup)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else schedule.learning_rate,
        max(steps - warmup, 1),
        warmup_target=schedule.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    decay = schedule.weight_decay or None
    optimizer: Any
    if schedule.optimizer == "sgd":
        momentum = schedule.momentum
        optimizer = keras.optimizers.SGD(rate, momentum, nesterov=momentum > 0, weight_decay=decay)
    elif schedule.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=schedule.weight_decay)
    else:
        optimizer = keras.optimizers.Adam(rate)
    if schedule.weight_decay:
        # Biases and the scales of norms are few and not what overfits.
        few = [variable for variable in variables if len(variable.shape) < 2]
        optimizer.exclude_from_weight_decay(var_list=few)
    optimizer.build(variables)
    return optimizer
