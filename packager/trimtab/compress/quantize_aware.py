"""The step `quantize_aware`: train a model while its weights and activations are rounded.

Pairs are placed and ranges measured as `quantize_int8` does it, or are those of a graph that is
quantized already. Weights and scales are then trained together towards the original's answers, with
every rounding in place (Jacob et al. 2018, arXiv:1712.05877, section 3; scales learned as in Esser
et al. 2020, arXiv:1902.08153), and written as integers at the end. Zero points stay as measured.
docs/decisions/0011-quantization-aware-training.md has what was measured.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import onnx_ir as ir

from trimtab.compress import quantize
from trimtab.compress.dequantize import is_quantized
from trimtab.compress.fake_quantized import Place, is_recurrent, train_form, weight_places
from trimtab.compress.fine_tune import Training, train_towards_teacher
from trimtab.compress.layer_patterns import matching_nodes
from trimtab.compress.placement import quantized_groups
from trimtab.compress.quantized_storage import stored_form
from trimtab.engine.learned_scales import is_learned
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.graph.access import constant, infer_shapes
from trimtab.graph.opset import raise_opset

if TYPE_CHECKING:
    from trimtab.compress.context import Context
    from trimtab.engine.schedule import Schedule

_RATES = {8: 1e-4, 4: 3e-4}
"""Of Adam, by the bits of weights: the finer the grid, the less there is to change."""

_OPSET_CHANNELS, _OPSET_BLOCKS = 13, 21
"""The first with scales for each channel, and the first with 4-bit integers and scales of blocks,
as weights of recurrent layers have them."""


class QuantizeAware(Training, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How to quantize and train.

    Attributes:
        epochs: Passes over the training samples; 0 rounds and trains nothing.
        learning_rate: As for `fine_tune`, by default 0.0003 with `weight_bits: 4`, else 0.0001.
        label_share: As for `fine_tune`, but 0 by default: the original is what is to be kept.
        weight_bits: Of the weights, 8 or 4; by default 8 of a float model, and as many as each has
            of a quantized one. Activations have 8.
        calibration_samples: Samples to measure activation ranges on, at most 65,536; of a float
            model only.
        keep_float: Layers that stay float: names of nodes or weights, or operators, with `*` and
            `?`; of a float model only.
    """

    epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    label_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    weight_bits: Literal[8, 4] | None = None
    calibration_samples: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    keep_float: tuple[str, ...] = ()

    def schedule(self, seed: int) -> Schedule:
        """Returns these parameters as the engine takes them."""
        schedule = super().schedule(seed)
        return replace(schedule, learning_rate=self.learning_rate or _RATES[self.weight_bits or 8])


def apply(model: ir.Model, step: QuantizeAware, context: Context) -> ir.Model:
    """Returns a quantized copy of a float or quantized model, trained with its roundings.

    Args:
        model: A cleaned float32 model, or one with QuantizeLinear/DequantizeLinear pairs.
        step: How.
        context: Gives the data, the original model as the teacher, and the seed.

    Returns:
        A graph with pairs, and integers for weights and biases.

    Raises:
        DataError: There is no data, or too little, or it does not fit the model.
        ModelError: Nothing of the model can be quantized, or it has a fixed batch.
        RecipeError: A pattern of `keep_float` matches nothing, or the model is quantized already.
        UnsupportedOperatorError: The training engine lacks operators of the model.
    """
    if context.dataset is None:
        raise DataError("quantize_aware needs data: give --data (labels are not needed)")
    from trimtab.engine.supported import check_supported
    from trimtab.engine.train import check_trainable

    check_trainable(model, len(context.dataset.train))
    check_supported(model)
    form = _train_form(raise_opset(model, _needed_opset(model, step)), step, context)
    if step.epochs:
        try:
            train_towards_teacher(form, step, context)
        except KeyboardInterrupt:
            context.kept.model = stored_form(form)
            raise
    return stored_form(form)


def _needed_opset(model: ir.Model, step: QuantizeAware) -> int:
    blocked = step.weight_bits == 4 or any(map(is_recurrent, model.graph))
    return _OPSET_BLOCKS if blocked else _OPSET_CHANNELS


def _train_form(model: ir.Model, step: QuantizeAware, context: Context) -> ir.Model:
    if not is_quantized(model):
        return _from_float(model, step, context)
    if step.keep_float:
        raise RecipeError(
            "quantize_aware: `keep_float` is for float models, and this one is quantized: give it "
            "to the step that quantizes, or put `dequantize: {}` before this step"
        )
    form = train_form(model, step.weight_bits)
    if not any(map(is_learned, form.graph.initializers.values())):
        raise ModelError(
            "quantize_aware: no layer of the quantized model has a weight or an activation that "
            "can be trained; put `dequantize: {}` before this step"
        )
    return form


def _from_float(model: ir.Model, step: QuantizeAware, context: Context) -> ir.Model:
    """Quantizes after training, and takes the float weights for those that came of it."""
    typed = model.clone()
    infer_shapes(typed)
    kept = matching_nodes(typed.graph, step.keep_float, "quantize_aware: keep_float")
    recurrent = [node for node in typed.graph if is_recurrent(node) and node not in kept]
    if quantized_groups(typed.graph, step.keep_float):
        after = quantize.QuantizeInt8(
            calibration_samples=step.calibration_samples,
            keep_float=step.keep_float,
            bias_correction=step.weight_bits != 4,  # it is for the error of weights in 8 bits
        )
        quantized = quantize.apply(model, after, context)
    elif recurrent:
        quantized = model
    else:
        operators = ", ".join(sorted({node.op_type for node in model.graph}))
        raise ModelError(f"quantize_aware: the model has nothing to quantize (it has {operators})")
    originals = [
        _original(place, before, recurrent)
        for place, before in zip(
            weight_places(quantized.graph), weight_places(typed.graph), strict=True
        )
    ]
    return train_form(quantized, step.weight_bits or 8, originals)


def _original(place: Place, before: Place, recurrent: list[ir.Node]) -> ir.Value | None:
    """Returns the float weight of a layer that is quantized, or None for one that stays float."""
    is_stored = constant(place.value) is None and constant(before.value) is not None
    has_weight = constant(before.value) is not None
    return before.value if is_stored or (before.node in recurrent and has_weight) else None
