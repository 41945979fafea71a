"""Weights in half precision: constants of 16 bits behind a Cast to float32.

The file is half as large, and everything is computed in float32 as before: runtimes cast the
weights once, when they load the file, or keep them if they have kernels for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import ml_dtypes
import msgspec
import numpy as np
import onnx_ir as ir

from trimtab.compress.layer_patterns import matching_weights
from trimtab.compress.weights import Array, Weight, require_weights
from trimtab.errors import ModelError
from trimtab.graph.access import add_initializer, replace_value
from trimtab.graph.opset import raise_opset

if TYPE_CHECKING:
    from trimtab.compress.context import Context

_TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# Cast knows bfloat16 from this version on.
_OPSET = 13


class CastWeights(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which weights to store in which format.

    Attributes:
        format: `float16` has 11 significant bits up to 65,504, `bfloat16` 8 bits and the range of
            float32.
        layers: Names of weights or of the operators that read them, or kinds of operators, with
            `*` and `?`; all by default.
    """

    format: Literal["float16", "bfloat16"] = "float16"
    layers: tuple[str, ...] = ()


def apply(model: ir.Model, step: CastWeights, context: Context) -> ir.Model:
    """Returns a copy whose weights are constants of 16 bits. Biases and the like stay float32.

    Raises:
        ModelError: The model has no float32 weights, or one that is not finite or too large for
            the format.
        RecipeError: A pattern of `layers` matches nothing.
    """
    result = raise_opset(model, _OPSET)
    weights = require_weights(result, "cast_weights", tables=True)
    if step.layers:
        named = matching_weights(weights, step.layers, "cast_weights: layers")
        weights = [weight for weight in weights if weight in named]
    narrow = {weight.name: _narrowed(weight, step.format) for weight in weights}
    for weight in weights:
        _insert(weight, result.graph, narrow[weight.name], step.format)
    context.log(f"cast_weights: {len(weights)} weights in {step.format}")
    return result


def _narrowed(weight: Weight, target: str) -> Array:
    with np.errstate(over="ignore"):  # what becomes infinite is reported below
        narrow = weight.array.astype(_TYPES[target])
    if not np.isfinite(narrow).all():
        raise ModelError(
            f"cast_weights: weight {weight.name!r} reaches {np.abs(weight.array).max():.6g}, "
            f"beyond {target}; use `format: bfloat16`, or leave it out of `layers`"
        )
    return narrow


def _insert(weight: Weight, graph: ir.Graph, narrow: Array, target: str) -> None:
    """Sends all that reads the weight to the cast constant."""
    stored = add_initializer(graph, f"{weight.name}_{target}", narrow)
    stored.metadata_props.update(weight.value.metadata_props)
    first = next(node for node in graph if weight.value in node.inputs)
    cast = ir.node(
        "Cast", [stored], {"to": int(ir.DataType.FLOAT)}, name=f"{weight.name}_{target}_cast"
    )
    real = cast.outputs[0]
    real.shape, real.type = weight.value.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(first, cast)
    replace_value(weight.value, real)
    del graph.initializers[weight.name]
