"""What can be done to each layer of a model: its rungs, cheapest first."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import onnx_ir as ir

from trimtab.compress.factors import SPLITTERS
from trimtab.compress.factors.base import Method, Rung, Splitter
from trimtab.compress.factors.layers import Layer, find_layers
from trimtab.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from trimtab.compress.context import Context
    from trimtab.compress.factorize import Factorize

_AUTO: tuple[Method, ...] = ("svd", "spatial", "tucker")
"""Those whose best rank for an error is found without fitting."""
_NAMED = 3
"""Layers that a message names; the log has all."""


def find_ladders(
    model: ir.Model, step: Factorize, context: Context
) -> tuple[list[Layer], list[list[Rung]]]:
    """Return the layers with what can be done to each, cheapest first.

    Raises:
        ModelError: There is none.
    """
    layers, refused = find_layers(model)
    usable, ladders = [], []
    for layer in _wished(layers, refused, step.layers):
        splitters, reasons = _splitters(layer, step)
        rungs = _rungs(layer, splitters, step)
        if rungs:
            usable.append(layer)
            ladders.append(rungs)
        else:
            none_saves = f"no rank saves {step.saved}"
            if layer.kind == "table" and step.saved == "macs":
                none_saves = "looking up multiplies nothing; `saves: parameters` takes it"
            refused[layer.name] = none_saves if splitters else "; ".join(reasons)
    for name, reason in refused.items():
        context.log(f"{name}: stays, {reason}")
    if not usable:
        reasons = [f"{name}: {reason}" for name, reason in refused.items()][:_NAMED]
        if len(refused) > _NAMED:
            reasons.append(f"and {len(refused) - _NAMED} more, see the log")
        raise ModelError(
            f"factorize: no layer can be replaced by {step.method} so that it saves {step.saved} "
            f"({', '.join(reasons) or 'there are no dense layers and no convolutions'}); "
            "leave out this step"
        )
    return usable, ladders


def _wished(
    layers: Sequence[Layer], refused: Mapping[str, str], patterns: Sequence[str]
) -> list[Layer]:
    """Return the layers that match a pattern by name or operator; all without patterns.

    Raises:
        RecipeError: A pattern matches none.
    """

    def matches(layer: Layer, pattern: str) -> bool:
        return fnmatchcase(layer.name, pattern) or fnmatchcase(layer.node.op_type, pattern)

    for pattern in patterns:
        if not any(matches(layer, pattern) for layer in layers):
            known = [layer.name for layer in layers]
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.0)
            reasons = [f"{n}: {why}" for n, why in refused.items() if fnmatchcase(n, pattern)]
            raise RecipeError(
                f"factorize: no layer that can be factorized matches {pattern!r} in `layers` "
                f"({'; '.join(reasons) or 'near: ' + (', '.join(near) or 'there are none')})"
            )
    return [la for la in layers if not patterns or any(matches(la, p) for p in patterns)]


def _splitters(layer: Layer, step: Factorize) -> tuple[list[Splitter], list[str]]:
    """Return the methods that fit a layer, and why the others do not."""
    names: tuple[Method, ...] = _AUTO if step.method == "auto" else (step.method,)
    reasons = {name: SPLITTERS[name].refusal(layer) for name in names}
    fitting = [SPLITTERS[name] for name in names if reasons[name] is None]
    return fitting, [reason for reason in reasons.values() if reason is not None]


def _rungs(layer: Layer, splitters: Sequence[Splitter], step: Factorize) -> list[Rung]:
    """Return every rung that saves something, cheapest first.

    Raises:
        RecipeError: A given rank is above what the layer has.
    """
    if step.rank is not None:
        rungs = [_given(layer, splitter, step.rank) for splitter in splitters]
    else:
        rungs = [rung for splitter in splitters for rung in splitter.ladder(layer)]
    whole = cost_of(layer, step.saved)
    cheaper = [rung for rung in rungs if getattr(rung, step.saved) < whole]
    return sorted(cheaper, key=lambda rung: (getattr(rung, step.saved), rung.lost))


def _given(layer: Layer, splitter: Splitter, rank: int) -> Rung:
    highest = splitter.highest(layer)
    if rank > min(highest):
        raise RecipeError(
            f"factorize: rank {rank} is above the {min(highest)} that {layer.name!r} of shape "
            f"{layer.weight.shape} has for {splitter.name}; give a lower one, or `energy`"
        )
    ranks = (rank,) * len(highest)
    known = dict(splitter.losses(layer))
    # The nearest known rank below bounds what is lost from above.
    lost = min((loss for each, loss in known.items() if each <= ranks), default=1.0)
    return splitter.rung(layer, ranks, lost)


def cost_of(layer: Layer, what: Literal["macs", "parameters"]) -> int:
    """Returns what a layer costs as it is."""
    return layer.macs if what == "macs" else int(layer.weight.size)
