"""How long, how fast and by which rule to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

OptimizerName = Literal["adam", "adamw", "sgd"]

NORMS_RATE = 4e-3
PLAIN_RATE = 1e-3
"""Of Adam. A rate that batch norms make the most of wrecks a network without: ResNet-8, pruned at
once to 49 % of its multiply-accumulates and trained 3 epochs, is right on 0.937 of its hard test
set with norms at 0.004 (0.906 at 0.001), without them on 0.553 (0.891 at 0.001)."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How to train.

    Attributes:
        epochs: Passes over the samples.
        learning_rate: At its highest; it falls from there to zero along half a cosine
            (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts). None for
            `NORMS_RATE` where batch norms are brought back, and `PLAIN_RATE` where they are not.
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
    learning_rate: float | None
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


def make_optimizer(schedule: Schedule, steps: int, variables: list[Any], *, has_norms: bool) -> Any:
    """Returns a Keras optimizer for `variables`, its rate scheduled over `steps` steps.

    Args:
        schedule: How to train.
        steps: In all epochs together.
        variables: What is trained.
        has_norms: Whether batch norms were brought back, for the rate by default.
    """
    import keras

    warmup = round(steps * schedule.warmup)
    highest = schedule.learning_rate or (NORMS_RATE if has_norms else PLAIN_RATE)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else highest,
        max(steps - warmup, 1),
        warmup_target=highest if warmup else None,
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
