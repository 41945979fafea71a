"""Factorization: large weights become products of small ones, where that saves something.

What a rank costs is chosen in one of four ways: by the energy of the weights that is kept, by a
budget, by what validation shows, or given outright.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import onnx_ir as ir

from trimtab.compress.factors import Layer, Rung, find_layers
from trimtab.compress.factors.ladders import cost_of, find_ladders
from trimtab.compress.factors.ranks import by_budget, by_energy, by_validation
from trimtab.compress.factors.rewrite import replace_layer
from trimtab.errors import DataError
from trimtab.graph.access import infer_shapes
from trimtab.graph.count import count_model

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


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
    layers, ladders = find_ladders(model, step, context)
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
        whole = [cost_of(layer, step.saved) for layer in layers]
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
        [(layer.name, cost_of(layer, step.saved)) for layer in layers],
        ladders,
        max_drop=step.max_drop,
        drop=validation.drop,
        replace=replaced,
    )


def _train(model: ir.Model, step: Factorize, context: Context) -> ir.Model:
    from trimtab.compress import fine_tune

    training = fine_tune.FineTune(epochs=step.epochs, learning_rate=step.learning_rate)
    return fine_tune.apply(model, training, context)
