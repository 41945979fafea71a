"""Presets: recipes for a wished size on the wire, picked for the model, the profile and the data.

`low`, `medium`, `high` and `extreme` aim at 2, 4, 8 and 16 times fewer bytes on the wire than the
float model. Each has a ladder of recipes from the mildest to the harshest, and the first is taken
whose size on the wire, measured without its training (`compress.size`), is small enough: training
moves values and hardly changes how many bytes they take. Still they are aims, not promises.
`deep_compression` is the recipe of that name (Han et al. 2016, arXiv:1510.00149): prune, share,
quantize, and leave the coding to the weight codec.

The ladders, measured on ResNet-8/digits (docs/recipes.md has the figures):

- Where nothing can be trained (no data, or operators that the engine lacks): weights in 8 bits,
  then ever fewer shared values, then some weights pruned before. On ResNet-8's validation digits,
  0.4 pruned and 16 values kept 0.965 of 0.982 at 8.1 times smaller, 8 values alone 0.942 at 8.8.
  Below 3 bits without training too little is left (0.68 of 0.99 with 2), so `extreme` asks for
  data.
- With data: int8, then shared values in int8, which need no training, then more and more weights
  pruned in rounds with training, then shared values on top, and for `extreme` half of the
  multiply-accumulates away first. Training comes as late as that because it keeps what its data
  shows and loses the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import onnx_ir as ir

from trimtab.compress.placement import has_integer_kernel
from trimtab.compress.recipe import Recipe, parse_recipe
from trimtab.compress.size import SizeMeter
from trimtab.compress.weights import find_weights
from trimtab.errors import ModelError, RecipeError
from trimtab.evaluate.data import Dataset
from trimtab.graph.dependencies import analyse
from trimtab_agent.contract.profile import Profile
from trimtab_agent.errors import CallerError

Preset = Literal["low", "medium", "high", "extreme", "deep_compression"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

FACTORS: dict[str, int] = {"low": 2, "medium": 4, "high": 8, "extreme": 16}
"""How many times fewer bytes on the wire each aims at."""

_MARGIN = 1.04
"""Training spreads values a little: what is aimed at is so much smaller than what is wished."""

_LEARNING_RATE = 0.001
"""A quarter of what fine-tuning takes where batch norms are brought back: nobody has said that the
data is all that the device will see, and the slower the training, the less of the rest is lost."""

_NEAR = 0.9
_SPARSITIES = [share / 100 for share in range(50, 92, 4)]
Steps = list[dict[str, dict[str, Any]]]


def preset(
    name: str, model: ir.Model, profile: Profile, *, dataset: Dataset | None = None
) -> Recipe:
    """Picks the steps of a preset.

    Args:
        name: One of `PRESETS`.
        model: The float model that it is for.
        profile: The device that it is for: int8 activations only where it runs them.
        dataset: Samples to calibrate and train on, labels not needed; None without.

    Raises:
        RecipeError: There is no such preset, or it needs training and that is not possible.
    """
    if name not in PRESETS:
        raise RecipeError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    obstacle = _obstacle_to_training(model, dataset)
    if obstacle is None:
        ladder = _trained(name, model, profile)
    else:
        _check_untrained(name, obstacle)
        ladder = _untrained(model, profile, has_data=dataset is not None)
    if name == "deep_compression":
        return parse_recipe({"steps": ladder[0]}, f"preset {name}")
    recipes = [parse_recipe({"steps": steps}, f"preset {name}") for steps in ladder]
    factor = FACTORS[name] * (_MARGIN if obstacle is None else 1.0)
    return _mildest(recipes, SizeMeter(model, profile, dataset), factor)


def _mildest(recipes: Sequence[Recipe], meter: SizeMeter, factor: float) -> Recipe:
    """Finds the first recipe that makes a model so many times smaller.

    Models get smaller from the first recipe to the last, so that halving finds it. Where even the
    last misses the aim, because names and scales weigh more than weights, accuracy is not given
    away for little: the first that comes near the last is taken.
    """
    recipes, smallest = _without_impossible(recipes, meter)
    factor = min(factor, _NEAR * smallest)
    low, high = 0, len(recipes) - 1
    while low < high:
        middle = (low + high) // 2
        if meter.times_smaller(recipes[middle].steps) >= factor:
            high = middle
        else:
            low = middle + 1
    return recipes[low]


def _without_impossible(
    recipes: Sequence[Recipe], meter: SizeMeter
) -> tuple[Sequence[Recipe], float]:
    """Leaves out the harshest recipes that the model has too few weights for.

    Returns:
        The recipes, and how many times smaller the last of them makes the model.
    """
    while True:
        try:
            return recipes, meter.times_smaller(recipes[-1].steps)
        except ModelError:
            if len(recipes) == 1:
                raise
            recipes = recipes[:-1]


def _obstacle_to_training(model: ir.Model, dataset: Dataset | None) -> str | None:
    """Says why the model cannot be trained here, if so."""
    if dataset is None:
        return "needs data to train on (--data; labels are not needed)"
    from trimtab.engine.supported import check_supported
    from trimtab.engine.train import check_trainable

    try:
        check_trainable(model, len(dataset.train))
        check_supported(model)
    except CallerError as error:
        return f"trains, and that is not possible: {error}"
    return None


def _check_untrained(name: str, obstacle: str) -> None:
    if name in {"extreme", "deep_compression"}:
        raise RecipeError(
            f"preset {name} {obstacle}. So few bits without training leave no accuracy; take "
            "`high` or less"
        )


def _untrained(model: ir.Model, profile: Profile, *, has_data: bool) -> list[Steps]:
    """Gives the ladder where nothing can be trained."""
    first = quantization(model, profile) if has_data else [{"quantize_weights": {"bits": 8}}]
    shared = (_one_shot(0.0, values) for values in (64, 32, 24, 16))
    pruned = (_one_shot(sparsity, 16) for sparsity in (0.1, 0.2, 0.3, 0.4))
    return [first, *shared, *pruned, *(_one_shot(sparsity, 12) for sparsity in (0.4, 0.5))]


def _one_shot(sparsity: float, values: int) -> Steps:
    pruned: Steps = [{"prune_weights": {"sparsity": sparsity}}] if sparsity else []
    return [*pruned, {"share_weights": {"values": values}}]


def _trained(name: str, model: ir.Model, profile: Profile) -> list[Steps]:
    """Gives the ladder where there is data to train on."""
    last = quantization(model, profile)
    if name == "deep_compression":
        return [[_prune(0.8, 4), _share(16), *_per_tensor(last)]]
    if name == "extreme":
        narrow = _fewer_channels(model)
        shared = (
            [*narrow, _prune(sparsity, 4), _share(16), *_per_tensor(last)]
            for sparsity in _SPARSITIES
        )
        return list(shared)
    shared = ([*_one_shot(0.0, values), *_per_tensor(last)] for values in (64, 32, 24))
    pruned = ([_prune(sparsity, 3), *last] for sparsity in _SPARSITIES)
    harshest = [_prune(_SPARSITIES[-1], 4), _share(16), *_per_tensor(last)]
    return [last, *shared, *pruned, harshest]


def _prune(sparsity: float, rounds: int) -> dict[str, dict[str, Any]]:
    parameters = {"sparsity": sparsity, "rounds": rounds, "epochs_per_round": 2}
    return {"prune_weights": {**parameters, "learning_rate": _LEARNING_RATE}}


def _share(values: int) -> dict[str, dict[str, Any]]:
    return {"share_weights": {"values": values, "epochs": 2}}


def _fewer_channels(model: ir.Model) -> Steps:
    """Takes half the multiply-accumulates away first, where channels can be taken."""
    if not analyse(model).groups:
        return []
    return [{"prune_channels": {"macs": 0.5}}, {"fine_tune": {"epochs": 3}}]


def quantization(model: ir.Model, profile: Profile) -> Steps:
    """Gives the last step: int8 where the device and the model run it, else weights in 8 bits."""
    runs_int8 = any("int8" in runtime.dtypes for runtime in profile.runtimes)
    if runs_int8 and any(has_integer_kernel(weight.node) for weight in find_weights(model)):
        return [{"quantize_int8": {}}]
    return [{"quantize_weights": {"bits": 8}}]


def _per_tensor(steps: Steps) -> Steps:
    """Gives int8 one scale a tensor: scales of channels would make many codes of shared values."""
    return [
        {"quantize_int8": {"weights_per_channel": False}} if "quantize_int8" in step else step
        for step in steps
    ]
