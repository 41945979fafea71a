"""What each numeric form of each layer costs, measured by changing that layer alone.

A layer here is one weight: what a convolution, a matrix product, a recurrent cell or a table of
rows stores. Its forms are those of `Form`. Two figures are measured of each on a few samples:

- the drop of the task's own figure, for people;
- the distortion, the error of the outputs relative to their spread, by which layers are compared.
  A single layer moves a handful of answers among hundreds, so that drops of single layers are
  mostly chance. The distortion is continuous, and of independent errors the squares add (as in
  Nagel et al. 2021, arXiv:2106.08295, section 4.4, where layers are ranked by their noise).
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_ir as ir

from trimtab.compress import cast_weights, quantize_weights
from trimtab.compress.affine import Range
from trimtab.compress.bias_correction import correct_biases
from trimtab.compress.calibrate import calibrate
from trimtab.compress.cast_weights import CastWeights
from trimtab.compress.context import Context
from trimtab.compress.input_moments import input_moments
from trimtab.compress.placement import has_integer_kernel, quantized_groups
from trimtab.compress.quantize import MINIMUM_OPSET, quantize
from trimtab.compress.quantize_weights import QuantizeWeights
from trimtab.compress.validation import Validation
from trimtab.compress.weights import Weight
from trimtab.graph.access import infer_shapes
from trimtab.graph.save import weight_bytes
from trimtab.progress import track

Form = Literal["float32", "float16", "weights8", "int8", "weights4"]
"""`float16`, `weights8` and `weights4` store weights in so many bits and compute in float32; `int8`
computes in int8 too."""

NAMES: dict[Form, str] = {
    "float32": "float",
    "float16": "float16 weights",
    "weights8": "8-bit weights",
    "int8": "int8",
    "weights4": "4-bit weights",
}
"""For people."""

Assignment = Mapping[str, Form]
"""A form for each weight, by its name; those that are left out stay float32."""

_BITS: dict[Form, Literal[8, 4]] = {"weights8": 8, "weights4": 4}


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one form of one layer does to the model, all other layers in float.

    Attributes:
        form: Of the layer.
        saved_bytes: By how much all stored weights shrink, scales included.
        drop: Of the task's figure, as `Validation.drop` has it.
        distortion: Error of the outputs, relative to their spread.
    """

    form: Form
    saved_bytes: int
    drop: float
    distortion: float


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What was measured of one layer.

    Attributes:
        layer: Name of the weight.
        effects: One for each form that it may have besides float32.
    """

    layer: str
    effects: tuple[Effect, ...]


class Assembler:
    """Makes models from assignments; layers' inputs are looked at once for all.

    Args:
        model: The float model. It is left as it is.
        weights: Its weights, of which assignments speak.
        context: Its data set gives the calibration samples.
        calibration_samples: How many.

    Raises:
        DataError: An activation is not finite on the samples.
    """

    def __init__(
        self,
        model: ir.Model,
        weights: Sequence[Weight],
        context: Context,
        *,
        calibration_samples: int,
    ) -> None:
        self._model = model.clone()
        infer_shapes(self._model)
        self._kernels = [weight.name for weight in weights if has_int8_form(model, weight)]
        self._quiet = replace(context, log=lambda _: None)
        assert context.dataset is not None, "the technique has asked for data"
        self._samples = context.dataset.calibration(calibration_samples, context.seed)
        self._ranges: dict[str, Range] = {}
        self._moments = input_moments(model, weights, self._samples)

    def assemble(self, assignment: Assignment, *, draft: bool = False) -> ir.Model:
        """Returns a copy of the model in which each layer has its form.

        Args:
            assignment: The forms.
            draft: Whether to round int8 weights without moments and leave their biases as they are.
        """
        result = self._in_int8(assignment, draft=draft)
        if halves := _layers(assignment, "float16"):
            result = cast_weights.apply(result, CastWeights(layers=halves), self._quiet)
        for form, bits in _BITS.items():
            if layers := _layers(assignment, form):
                step = QuantizeWeights(bits=bits, layers=layers)
                moments = self._moments if bits < 8 else {}
                result = quantize_weights.quantize(result, step, moments, self._quiet.log)
        return result

    def _in_int8(self, assignment: Assignment, *, draft: bool) -> ir.Model:
        if "int8" not in assignment.values():
            return self._model
        kept = [_exactly(name) for name in self._kernels if assignment.get(name) != "int8"]
        groups = quantized_groups(self._model.graph, kept)
        # Which activations are rounded depends on what stays float, but hardly: most are known.
        new = [name for group in groups for name in group if name not in self._ranges]
        if new:
            self._ranges |= calibrate(self._model, self._samples, new, method="mse")
        moments = {} if draft else self._moments
        result = quantize(self._model, self._ranges, keep_float=kept, moments=moments)
        if not draft:
            correct_biases(result, self._model, self._samples)
        return result


def has_int8_form(model: ir.Model, weight: Weight) -> bool:
    """Says whether a layer can compute in int8: its operator does, with this as its weights."""
    return (
        model.opset_imports.get("", 0) >= MINIMUM_OPSET
        and has_integer_kernel(weight.node)
        and weight.node.inputs[1] is weight.value
    )


def fits_float16(weight: Weight) -> bool:
    """Says whether all weights of a layer are within what 16 bits reach."""
    return bool(np.abs(weight.array).max() <= np.finfo(np.float16).max)


def measure(
    model: ir.Model,
    forms: Mapping[str, Sequence[Form]],
    assembler: Assembler,
    validation: Validation,
) -> list[Sensitivity]:
    """Changes each layer alone to each of its forms, and measures what that does.

    Args:
        model: The float model.
        forms: What each layer may become, by the name of its weight.
        assembler: Of the same model.
        validation: Says what a change costs.
    """
    whole = weight_bytes(model)

    def effect(layer: str, form: Form) -> Effect:
        changed = assembler.assemble({layer: form}, draft=True)
        outputs = validation.run(changed)
        return Effect(
            form=form,
            saved_bytes=whole - weight_bytes(changed),
            drop=validation.drop_of(outputs),
            distortion=validation.distortion_of(outputs),
        )

    layers = track(forms.items(), "measuring layers", len(forms))
    return [
        Sensitivity(layer=layer, effects=tuple(effect(layer, form) for form in allowed))
        for layer, allowed in layers
    ]


def _layers(assignment: Assignment, form: Form) -> tuple[str, ...]:
    return tuple(_exactly(name) for name, given in assignment.items() if given == form)


def _exactly(name: str) -> str:
    """Returns the pattern that matches a name and nothing else."""
    return glob.escape(name)
