"""Quantization of weights only: 8, 4, 2 bits or signs, with scales; activations stay float.

Weights become integer constants behind DequantizeLinear, a form that ONNX Runtime and OpenVINO
run and the engine too. 8 bits are stored as int8, 4 and fewer as int4, two weights in a byte (see
docs/decisions/0008-weight-only-forms.md). TFLite files get the same numbers as float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import ml_dtypes
import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.layer_patterns import matching_weights
from trimtab.compress.weight_grid import Bits, fit
from trimtab.compress.weights import Weight, require_weights
from trimtab.graph.access import add_initializer, replace_value
from trimtab.graph.opset import raise_opset

if TYPE_CHECKING:
    from trimtab.compress.context import Context

Array = NDArray[Any]

BITS_KEY = "trimtab.bits"
"""Where stored codes say how many bits they need, which may be fewer than they are stored in."""

_GROUP = 64
"""Weights that share a scale at 4 bits and fewer. On ResNet-8's validation digits, distorted, the
error of 4-bit weights was 0.134 of the logits' spread with groups of 64, 0.152 with 32, 0.139 with
16 and 0.212 without groups; the scales add half a bit to a weight."""

# DequantizeLinear has an axis, and so a scale for each row, from 13 on; blocks and 4 bits from 21.
_OPSET_ROWS, _OPSET_BLOCKS = 13, 21


class QuantizeWeights(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How few bits, and how many weights share a scale.

    Attributes:
        bits: 8, 4, 2, or 1 for signs. Zeros stay zero, at 1 bit too.
        group: Weights of an output that share a scale, along its inputs: the largest power of
            two up to this that divides their number. By default 64 with 4 bits and fewer, and
            all of them with 8.
        symmetric: Codes around zero; otherwise each group has a zero point of its own, which
            suits weights that lean to one side.
        layers: Names of weights or of the operators that read them, or kinds of operators, with
            `*` and `?`; all by default.
    """

    bits: Bits = 8
    group: Annotated[int, msgspec.Meta(ge=2)] | None = None
    symmetric: bool = True
    layers: tuple[str, ...] = ()

    @property
    def shared(self) -> int | None:
        """How many weights may share a scale at most; None for any number."""
        return _GROUP if self.group is None and self.bits < 8 else self.group


def apply(model: ir.Model, step: QuantizeWeights, context: Context) -> ir.Model:
    """Returns a copy with integer weights. Biases and the like stay float.

    Raises:
        ModelError: The model has no float32 weights, one that is not finite, or an operator that
            cannot be brought to the opset that the form needs.
        RecipeError: A pattern of `layers` matches nothing.
    """
    weights = _chosen(model, step)
    blocked = any(_stored_in_blocks(weight, step) for weight in weights)
    needed = _OPSET_BLOCKS if blocked or step.bits < 8 else _OPSET_ROWS
    result = raise_opset(model, needed)
    for weight in _chosen(result, step):
        error = _quantize(weight, result.graph, step)
        context.log(f"{weight.name}: {step.bits} bits, relative error {error:.2%}")
    return result


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
    if step.shared is None or step.shared >= length:
        return None
    divisor = int(length & -length)  # the largest power of two that divides it
    size = min(divisor, 1 << (step.shared.bit_length() - 1))
    return size if size >= step.shared / 4 else None


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


def _quantize(weight: Weight, graph: ir.Graph, step: QuantizeWeights) -> float:
    """Puts a DequantizeLinear where the weight was; returns the error, root mean square."""
    original = weight.array
    if _stored_in_blocks(weight, step):
        stored, axis = _flat(weight), _block_axis(weight)
        size = _group_size(weight, step) or stored.shape[axis]
        codes, scales, zeros, real = _in_blocks(stored, axis, size, step)
        attributes = {"axis": axis, "block_size": size}
    else:
        axis = weight.rows[0]
        codes, scales, zeros, real = _by_row(original, axis, step)
        attributes = {"axis": axis}
    _insert(weight, graph, (codes, scales, zeros), attributes, step.bits)
    size_of = float(np.sqrt(np.square(original, dtype=np.float64).mean()))
    error = np.square(real.reshape(original.shape) - original, dtype=np.float64).mean()
    return float(np.sqrt(error)) / size_of if size_of else 0.0


def _by_row(array: Array, axis: int, step: QuantizeWeights) -> tuple[Array, Array, Array, Array]:
    """Gives codes, scales, zero points and values with one scale for each index of an axis."""
    moved = np.moveaxis(array, axis, 0)
    fitted = fit(moved.reshape(len(moved), -1), step.bits, symmetric=step.symmetric)

    def back(flat: Array) -> Array:
        return np.moveaxis(flat.reshape(moved.shape), 0, axis)

    return back(fitted.codes), fitted.scales, fitted.zero_points, back(fitted.values())


def _in_blocks(
    array: Array, axis: int, size: int, step: QuantizeWeights
) -> tuple[Array, Array, Array, Array]:
    """Gives the same with one scale for each block along an axis."""
    moved = np.moveaxis(array, axis, -1)
    fitted = fit(moved.reshape(-1, size), step.bits, symmetric=step.symmetric)

    def back(flat: Array) -> Array:
        return np.moveaxis(flat.reshape(*moved.shape[:-1], -1), -1, axis)

    return (
        back(fitted.codes),
        back(fitted.scales),
        back(fitted.zero_points),
        back(fitted.values()),
    )


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
