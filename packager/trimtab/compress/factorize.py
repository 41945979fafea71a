"""Factorization: large weights become products of small ones, where that saves something.

What a rank costs is chosen in one of four ways: by the energy of the weights that is kept, by a
budget, by what validation shows, or given outright.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import onnx_ir as ir

from trimtab.compress.factors import SPLITTERS, Layer, Method, Rung, Splitter, find_layers
from trimtab.compress.factors.ranks import by_budget, by_energy, by_validation
from trimtab.compress.factors.rewrite import replace_layer
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.graph.access import infer_shapes
from trimtab.graph.count import count_model

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
_AUTO: tuple[Method, ...] = ("svd", "spatial", "tucker")
"""Those whose best rank for an error is found without fitting."""
_NAMED = 3
"""Layers that a message names; the log has all."""


class Factorize(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How far to factorize, by one of `energy`, `macs`, `parameters`, `max_drop` and `rank`.

    Attributes:
        energy: The fraction of each weight's squared norm to keep, at the lowest rank that does.
        macs: The fraction of the model's multiply-accumulates to keep; the nearest that can be
            reached, with about the same error in every layer.
        parameters: The same of the parameters.
        max_drop: What the task's figure (accuracy, R2, cosine, ...) or, without labels, the
            agreement with the present model may lose, by cross-validation on training samples.
        rank: The rank of every layer; of both bases for `tucker`.
        method: `auto` takes, layer by layer, the cheapest of `svd`, `spatial` and `tucker`.
        layers: Names of weights, or operators such as `Gather`, with `*` and `?`; by default all.
        saves: A layer is replaced only where that saves these.
        samples: How many training samples `max_drop` is checked on.
        folds: Into how many parts they are split.
        epochs: Passes over the training samples afterwards.
        learning_rate: Of that training, as in `fine_tune`.
    """

    energy: Fraction | None = None
    macs: Fraction | None = None
    parameters: Fraction | None = None
    max_drop: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    rank: Positive | None = None
    method: Literal["auto", "svd", "spatial", "tucker", "cp", "tensor_train"] = "auto"
    layers: tuple[str, ...] = ()
    saves: Literal["macs", "parameters"] = "macs"
    samples: Annotated[int, msgspec.Meta(ge=8)] = 512
    folds: Annotated[int, msgspec.Meta(ge=2, le=20)] = 4
    epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None

    def __post_init__(self) -> None:
        """Check what parameters mean together.

        Raises:
            ValueError: They exclude each other, or lack one; msgspec adds where.
        """
        given = [self.energy, self.macs, self.parameters, self.max_drop, self.rank]
        if sum(amount is not None for amount in given) != 1:
            raise ValueError("give one of `energy`, `macs`, `parameters`, `max_drop` and `rank`")

    @property
    def saved(self) -> Literal["macs", "parameters"]:
        """What a layer must save to be replaced: what the budget is in, if there is one."""
        if self.macs is not None:
            return "macs"
        return "parameters" if self.parameters is not None else self.saves


def apply(model: ir.Model, step: Factorize, context: Context) -> ir.Model:
    """Return a copy of the model with layers replaced by factors. Each layer's fate is logged.

    Raises:
        ModelError: No layer can be factorized so that it saves anything.
        RecipeError: The rank is above what a layer has.
        DataError: Validation or training needs data and there is none.
        UnsupportedOperatorError: Training, and the engine lacks operators.
    """
    if context.dataset is None and (step.epochs or step.max_drop is not None):
        raise DataError(
            "factorize: `epochs` and `max_drop` need data: give --data, or choose by `energy`, "
            "`macs` or `parameters`"
        )
    layers, ladders = _ladders(model, step, context)
    chosen = _choose(model, layers, ladders, step, context)
    result = replaced(model, chosen)
    for name, rung in chosen.items():
        context.log(
            f"{name}: {rung.method} of rank {'x'.join(map(str, rung.ranks))}, "
            f"{1 - rung.lost:.1%} of its energy"
        )
    before, after = count_model(model), count_model(result)
    context.log(f"multiply-accumulates: {before.macs} -> {after.macs}")
    context.log(f"parameters: {before.parameters} -> {after.parameters}")
    return _train(result, step, context) if step.epochs and chosen else result


def replaced(model: ir.Model, chosen: Mapping[str, Rung]) -> ir.Model:
    """Return a copy with layers, by the names of their weights, replaced."""
    result = model.clone()
    for layer in find_layers(result)[0]:
        if layer.name in chosen:
            replace_layer(result.graph, layer, chosen[layer.name])
    for name in chosen:
        result.graph.initializers.pop(name)
    infer_shapes(result)
    return result


def _ladders(
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
    whole = _cost(layer, step.saved)
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


def _choose(
    model: ir.Model,
    layers: Sequence[Layer],
    ladders: Sequence[Sequence[Rung]],
    step: Factorize,
    context: Context,
) -> dict[str, Rung]:
    """Return what replaces each layer, by its name; layers that stay are left out."""
    names = [layer.name for layer in layers]
    if step.rank is not None:
        chosen: list[Rung | None] = [ladder[0] for ladder in ladders]
    elif step.energy is not None:
        chosen = [by_energy(ladder, 1 - step.energy) for ladder in ladders]
    elif step.max_drop is not None:
        chosen = _validated(model, layers, ladders, step, context)
    else:
        counts = count_model(model)
        share = step.macs if step.macs is not None else step.parameters
        assert share is not None
        whole = [_cost(layer, step.saved) for layer in layers]
        costs = [[getattr(rung, step.saved) for rung in ladder] for ladder in ladders]
        saving = (1 - share) * getattr(counts, step.saved)
        chosen = by_budget(ladders, costs, whole, sum(whole) - saving)
    return {name: rung for name, rung in zip(names, chosen, strict=True) if rung is not None}


def _validated(
    model: ir.Model,
    layers: Sequence[Layer],
    ladders: Sequence[Sequence[Rung]],
    step: Factorize,
    context: Context,
) -> list[Rung | None]:
    from trimtab.compress.validation import Validation

    assert context.dataset is not None
    assert step.max_drop is not None
    validation = Validation(
        model, context.dataset, samples=step.samples, folds=step.folds, seed=context.seed
    )
    return by_validation(
        model,
        [(layer.name, _cost(layer, step.saved)) for layer in layers],
        ladders,
        max_drop=step.max_drop,
        drop=validation.drop,
        replace=replaced,
    )


def _cost(layer: Layer, what: Literal["macs", "parameters"]) -> int:
    return layer.macs if what == "macs" else int(layer.weight.size)


def _train(model: ir.Model, step: Factorize, context: Context) -> ir.Model:
    from trimtab.compress import fine_tune

    training = fine_tune.FineTune(epochs=step.epochs, learning_rate=step.learning_rate)
    return fine_tune.apply(model, training, context)
