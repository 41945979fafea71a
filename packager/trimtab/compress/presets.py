"""Presets: recipes for a wished size on the wire, picked for the model and profile at hand.

`low`, `medium`, `high` and `extreme` aim at 2, 4, 8 and 16 times fewer bytes on the wire than the
float model. They are aims, not promises: what does not shrink (the graph, names, scales, biases)
weighs more the smaller a model is. `deep_compression` is the recipe of that name (Han et al.
2016, arXiv:1510.00149): prune, share, quantize, and leave the coding to the chunk codec.

How they pick, measured on ResNet-8/digits (docs/recipes.md has the figures):

- Without data, nothing can be trained: 8 bits for `low`, 32 shared values for `medium` (which cost
  no time in any runtime), 4 bits for `high`. 2 bits without training left 0.68 of 0.99 accuracy
  and were no smaller than 4, so `extreme` asks for data.
- With data, int8 alone does for `low`; the others prune as many weights as the wished size asks
  for, in rounds with training, and `extreme` shares values on top and takes channels first.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import onnx_ir as ir

from trimtab.compress.placement import has_integer_kernel
from trimtab.compress.recipe import Recipe, parse_recipe
from trimtab.compress.weights import find_weights
from trimtab.errors import RecipeError
from trimtab.graph.count import count_model
from trimtab.graph.dependencies import analyse
from trimtab_agent.contract.profile import Profile

Preset = Literal["low", "medium", "high", "extreme", "deep_compression"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

FACTORS: dict[str, int] = {"low": 2, "medium": 4, "high": 8, "extreme": 16}
"""How many times fewer bytes on the wire each aims at."""

_FLOAT_BITS = 29.5
"""What zstd makes of the 32 bits of a trained float32 weight."""
_INT8_BITS = 7.2
"""What it makes of the 8 bits of a weight in int8, zeros aside."""
_NODE_BYTES = 250
"""A node of the float graph with its names, scales and pairs in int8."""
_ALIGNMENT = 1.1
"""zstd's distance from the entropy of zeros among weights."""
_LEAST_SPARSITY, _MOST_SPARSITY = 0.1, 0.9
_LEFT_FLOAT = 0.1
"""A smaller share of the weights that has no int8 kernel is left in float."""

Steps = list[dict[str, dict[str, Any]]]


def preset(name: str, model: ir.Model, profile: Profile, *, has_data: bool) -> Recipe:
    """Picks the steps of a preset.

    Args:
        name: One of `PRESETS`.
        model: The float model that it is for.
        profile: The device that it is for: int8 activations only where it runs them.
        has_data: Whether there are samples to calibrate and train on; labels are not needed.

    Raises:
        RecipeError: There is no such preset, or it needs data.
    """
    if name not in PRESETS:
        raise RecipeError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    steps = _with_data(name, model, profile) if has_data else _without_data(name)
    return parse_recipe({"steps": steps}, f"preset {name}")


def _without_data(name: str) -> Steps:
    match name:
        case "low":
            return [{"quantize_weights": {"bits": 8}}]
        case "medium":
            return [{"share_weights": {"values": 32}}]
        case "high":
            return [{"quantize_weights": {"bits": 4}}]
        case _:
            raise RecipeError(
                f"preset {name} needs data to train on (--data; labels are not needed): so few "
                "bits without training leave no accuracy; without data take `high` or less"
            )


def _with_data(name: str, model: ir.Model, profile: Profile) -> Steps:
    last = _quantization(model, profile)
    if name == "low":
        return last
    if name == "deep_compression":
        return [_prune(0.8, 4), _share(16), *_per_tensor(last)]
    sparsity = _sparsity(model, FACTORS[name])
    if name != "extreme":
        return [*([_prune(sparsity, 3)] if sparsity > 0 else []), *last]
    return [*_fewer_channels(model), _prune(0.75, 4), _share(16), *_per_tensor(last)]


def _prune(sparsity: float, rounds: int) -> dict[str, dict[str, Any]]:
    return {"prune_weights": {"sparsity": sparsity, "rounds": rounds, "epochs_per_round": 2}}


def _share(values: int) -> dict[str, dict[str, Any]]:
    return {"share_weights": {"values": values, "epochs": 2}}


def _fewer_channels(model: ir.Model) -> Steps:
    """Takes half the multiply-accumulates away first, where channels can be taken."""
    if not analyse(model).groups:
        return []
    return [{"prune_channels": {"macs": 0.5}}, {"fine_tune": {"epochs": 3}}]


def _quantization(model: ir.Model, profile: Profile) -> Steps:
    """Gives the last steps: int8 where the device and the model run it, and the rest in 8 bits."""
    weights = find_weights(model, tables=True)
    total = sum(weight.array.size for weight in weights)
    kernels = sum(weight.array.size for weight in weights if has_integer_kernel(weight.node))
    runs_int8 = any("int8" in runtime.dtypes for runtime in profile.runtimes)
    if not runs_int8 or kernels == 0:
        return [{"quantize_weights": {"bits": 8}}]
    rest = total - kernels > _LEFT_FLOAT * total
    return [{"quantize_int8": {}}, *([{"quantize_weights": {"bits": 8}}] if rest else [])]


def _per_tensor(steps: Steps) -> Steps:
    """Gives int8 one scale a tensor: scales of channels would make many codes of shared values."""
    return [
        {"quantize_int8": {"weights_per_channel": False}} if "quantize_int8" in step else step
        for step in steps
    ]


def _sparsity(model: ir.Model, factor: float) -> float:
    """Estimates how many of the int8 weights must be zero for a size on the wire.

    Returns:
        A share in steps of a hundredth, at most `_MOST_SPARSITY`; 0 where int8 alone does.
    """
    weights = sum(weight.array.size for weight in find_weights(model, tables=True))
    others = count_model(model).parameters - weights
    fixed = others * 4 + len(model.graph) * _NODE_BYTES
    float_bytes = (weights + others) * _FLOAT_BITS / 8
    wished_bits = (float_bytes / factor - fixed) * 8 / max(weights, 1)
    if _coded_bits(0) <= wished_bits:
        return 0.0
    hundredths = range(round(_LEAST_SPARSITY * 100), round(_MOST_SPARSITY * 100) + 1)
    enough = (share / 100 for share in hundredths if _coded_bits(share / 100) <= wished_bits)
    return next(enough, _MOST_SPARSITY)


def _coded_bits(sparsity: float) -> float:
    """Returns the bits of an int8 weight: whether it is zero, and if not, which code it is."""
    if sparsity == 0:
        return _INT8_BITS
    kept = 1 - sparsity
    which = -sparsity * math.log2(sparsity) - kept * math.log2(kept)
    return _ALIGNMENT * (which + kept * _INT8_BITS)
