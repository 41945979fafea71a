"""Quantization of weights only: 8, 4, 2 bits or signs, with scales; activations stay float.

Weights become integer constants behind DequantizeLinear, a form that ONNX Runtime and OpenVINO
run and the engine too. 8 bits are stored as int8, 4 and fewer as int4, two weights in a byte (see
docs/decisions/0008-weight-only-forms.md). What TFLite stores: docs/targets.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import ml_dtypes
import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.gptq import fit_compensated
from trimtab.compress.input_moments import input_moments
from trimtab.compress.layer_patterns import matching_weights
from trimtab.compress.weight_grid import Bits, Groups, fit
from trimtab.compress.weights import Weight, require_weights
from trimtab.errors import DataError
from trimtab.graph.access import add_initializer, replace_value
from trimtab.graph.opset import raise_opset

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Array = NDArray[Any]

BITS_KEY = "trimtab.bits"
"""Where stored codes say how many bits they need, which may be fewer than they are stored in."""

# DequantizeLinear has an axis, and so a scale for each row, from 13 on; blocks and 4 bits from 21.
_OPSET_ROWS, _OPSET_BLOCKS = 13, 21


class QuantizeWeights(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How few bits, and how many weights share a scale.

    Attributes:
        bits: 8, 4, 2, or 1 for signs. Zeros stay zero, at 1 bit too.
        group: Weights of an output that share a scale, along its inputs: the largest power of
            two up to this that divides their number. By default all of them, which is what all
            three targets can store.
        symmetric: Codes around zero; otherwise each group has a zero point of its own, which
            suits weights that lean to one side.
        rounding: `nearest`, or `gptq`, which needs data (labels not needed): see `gptq`. By
            default the latter with 4 and 2 bits where there is data.
        calibration_samples: For `gptq`.
        layers: Names of weights or of the operators that read them, or kinds of operators, with
            `*` and `?`; all by default.
    """

    bits: Bits = 8
    group: Annotated[int, msgspec.Meta(ge=2)] | None = None
    symmetric: bool = True
    rounding: Literal["nearest", "gptq"] | None = None
    calibration_samples: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses signs that make up for each other: their scale is fixed by the magnitudes."""
        if self.bits == 1 and self.rounding == "gptq":
            raise ValueError("rounding gptq needs 2 bits or more; give nearest, or more bits")


def apply(model: ir.Model, step: QuantizeWeights, context: Context) -> ir.Model:
    """Returns a copy with integer weights. Biases and the like stay float.

    Raises:
        DataError: `gptq` is asked for and there is no data.
        ModelError: The model has no float32 weights, one that is not finite, or an operator that
            cannot be brought to the opset that the form needs.
        RecipeError: A pattern of `layers` matches nothing.
    """
    weights = _chosen(model, step)
    moments: Mapping[str, Array] = {}
    if _compensates(step, context):
        assert context.dataset is not None, "checked there"
        samples = context.dataset.calibration(step.calibration_samples, context.seed)
        moments = input_moments(model, weights, samples)
    return quantize(model, step, moments, context.log)


def quantize(
    model: ir.Model,
    step: QuantizeWeights,
    moments: Mapping[str, Array],
    log: Callable[[str], None],
) -> ir.Model:
    """Does the same with second moments of the layers' inputs that are known.

    Args:
        model: The float model, or one of which layers are quantized already.
        step: How few bits.
        moments: By the names of weights (see `input_moments`); layers that are not among them are
            rounded to nearest.
        log: Takes a line for each weight.
    """
    weights = _chosen(model, step)
    blocked = any(_stored_in_blocks(weight, step) for weight in weights)
    needed = _OPSET_BLOCKS if blocked or step.bits < 8 else _OPSET_ROWS
    result = raise_opset(model, needed)
    for weight in _chosen(result, step):
        error = _quantize(weight, result.graph, step, moments.get(weight.name))
        log(f"{weight.name}: {step.bits} bits, relative error {error:.2%}")
    return result


def _compensates(step: QuantizeWeights, context: Context) -> bool:
    if step.rounding is None:
        return step.bits in {2, 4} and context.dataset is not None
    if step.rounding == "gptq" and context.dataset is None:
        raise DataError(
            "quantize_weights: rounding gptq needs sample inputs and there are none; give a data "
            "file with --data (labels are not needed), or rounding nearest"
        )
    return step.rounding == "gptq"


def _chosen(model: ir.Model, step: QuantizeWeights) -> list[Weight]:
    weights = require_weights(model, "quantize_weights", tables=True)
    if not step.layers:
        return weights
    named = matching_weights(weights, step.layers, "quantize_weights: layers")
    return [weight for weight in weights if weight in named]


def _stored_in_blocks(weight: Weight, step: QuantizeWeights) -> bool:
    """Says whether scales differ within a row, or rows have several axes."""
    return len(weight.rows) > 1 or _group_size(weight, step) is not None


def _group_size(weight: Weight, step: QuantizeWeights) -> int | None:
    """Returns how many weights share a scale; None where that is a whole row.

    It is a power of two that divides the row: OpenVINO refuses what does not divide it, and
    OpenVINO 2026.4 computes products wrongly with groups of 5, 6, 9, 15 or 21. Where only far
    smaller groups divide it, as in a row of 27, their scales would outweigh the codes, and the
    row stays whole.
    """
    length = _flat(weight).shape[_block_axis(weight)]
    if step.group is None or step.group >= length:
        return None
    divisor = int(length & -length)  # the largest power of two that divides it
    size = min(divisor, 1 << (step.group.bit_length() - 1))
    return size if size >= step.group / 4 else None


def _flat(weight: Weight) -> Array:
    """Returns the weights as stored: a convolution's, outputs first, as a matrix."""
    if weight.rows == (0,) and len(weight.inner) > 1:
        return weight.array.reshape(len(weight.array), -1)
    return weight.array


def _block_axis(weight: Weight) -> int:
    """Returns the axis of the stored array along which scales change."""
    if weight.rows == (0,) and len(weight.inner) > 1:
        return 1
    return weight.inner[-1]


def _quantize(
    weight: Weight, graph: ir.Graph, step: QuantizeWeights, moments: Array | None
) -> float:
    """Puts a DequantizeLinear where the weight was; returns the error, root mean square."""
    original = weight.array
    if _stored_in_blocks(weight, step):
        stored, axis = _flat(weight), _block_axis(weight)
        size = _group_size(weight, step) or stored.shape[axis]
        codes, scales, zeros, real = _in_blocks(stored, axis, size, step, moments)
        attributes = {"axis": axis, "block_size": size}
    else:
        axis = weight.rows[0]
        codes, scales, zeros, real = _by_row(original, axis, step, moments)
        attributes = {"axis": axis}
    _insert(weight, graph, (codes, scales, zeros), attributes, step.bits)
    size_of = float(np.sqrt(np.square(original, dtype=np.float64).mean()))
    error = np.square(real.reshape(original.shape) - original, dtype=np.float64).mean()
    return float(np.sqrt(error)) / size_of if size_of else 0.0


def _by_row(
    array: Array, axis: int, step: QuantizeWeights, moments: Array | None
) -> tuple[Array, Array, Array, Array]:
    """Gives codes, scales, zero points and values with one scale for each index of an axis."""
    moved = np.moveaxis(array, axis, 0)
    rows = moved.reshape(len(moved), -1)
    fitted = _fit(rows, rows.shape[1], step, moments)

    def back(flat: Array) -> Array:
        return np.moveaxis(flat.reshape(moved.shape), 0, axis)

    return back(fitted.codes), fitted.scales, fitted.zero_points, back(fitted.values())


def _in_blocks(
    array: Array, axis: int, size: int, step: QuantizeWeights, moments: Array | None
) -> tuple[Array, Array, Array, Array]:
    """Gives the same with one scale for each block along an axis."""
    moved = np.moveaxis(array, axis, -1)
    fitted = _fit(moved.reshape(-1, moved.shape[-1]), size, step, moments)

    def back(flat: Array) -> Array:
        return np.moveaxis(flat.reshape(*moved.shape[:-1], -1), -1, axis)

    return (
        back(fitted.codes),
        back(fitted.scales),
        back(fitted.zero_points),
        back(fitted.values()),
    )


def _fit(rows: Array, size: int, step: QuantizeWeights, moments: Array | None) -> Groups:
    """Rounds the rows of a matrix, of which so many weights each share a scale."""
    if moments is None:
        return fit(rows.reshape(-1, size), step.bits, symmetric=step.symmetric)
    return fit_compensated(rows, moments, size, step.bits, symmetric=step.symmetric)


def _insert(
    weight: Weight,
    graph: ir.Graph,
    stored: tuple[Array, Array, Array],
    attributes: dict[str, int],
    bits: int,
) -> None:
    """Sends all that reads the weight to the dequantized codes."""
    codes, scales, zeros = stored
    kind = _integer_type(bits, symmetric=not zeros.any())
    operands = [
        add_initializer(graph, f"{weight.name}_{np.dtype(kind).name}", codes.astype(kind)),
        add_initializer(graph, f"{weight.name}_scale", scales),
        add_initializer(graph, f"{weight.name}_zero_point", zeros.astype(kind)),
    ]
    operands[0].metadata_props.update(weight.value.metadata_props, **{BITS_KEY: str(bits)})
    first = next(node for node in graph if weight.value in node.inputs)
    to_real = ir.node("DequantizeLinear", operands, attributes, name=f"{weight.name}_dequantize")
    new = [to_real]
    if codes.ndim != weight.array.ndim:
        shape = add_initializer(graph, f"{weight.name}_shape", np.array(weight.array.shape))
        reshape = ir.node("Reshape", [to_real.outputs[0], shape], name=f"{weight.name}_reshape")
        new.append(reshape)
        to_real.outputs[0].shape = ir.Shape(codes.shape)
        to_real.outputs[0].dtype = ir.DataType.FLOAT
    real = new[-1].outputs[0]
    real.shape, real.dtype = weight.value.shape, ir.DataType.FLOAT
    graph.insert_before(first, new)
    replace_value(weight.value, real)
    del graph.initializers[weight.name]


def _integer_type(bits: int, *, symmetric: bool) -> Any:
    if bits == 8:
        return np.int8 if symmetric else np.uint8
    return ml_dtypes.int4 if symmetric else ml_dtypes.uint4
