"""Post-training quantization with int16 activations and int8 weights (16x8).

For models whose activations do not fit 8 bits, such as those of audio and super-resolution. The
steps between codes are 256 times finer than with `quantize_int8`, so ranges are simply the smallest
and the largest value seen. TFLite has kernels for it. ONNX Runtime and OpenVINO have none: they
compute in float between the pairs, and the file is small but no faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from trimtab.compress.affine import INT16
from trimtab.compress.quantize import QuantizeInt8, calibrated
from trimtab.graph.opset import raise_opset

if TYPE_CHECKING:
    import onnx_ir as ir

    from trimtab.compress.context import Context

# QuantizeLinear writes int16 from this version on.
_OPSET = 21


class QuantizeInt16(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to quantize a model to int16 activations and int8 weights.

    Attributes:
        calibration_samples: Samples to measure activation ranges on, at most 65,536.
        keep_float: Layers that stay float: names of nodes or weights, or operators, with `*` and
            `?`.
    """

    calibration_samples: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    keep_float: tuple[str, ...] = ()


def apply(model: ir.Model, step: QuantizeInt16, context: Context) -> ir.Model:
    """Returns a copy with int16 pairs on activations and int8 weights.

    Raises:
        DataError: There is no data, or it does not fit the model.
        ModelError: The model is quantized already, has no operator that can be quantized, or one
            that cannot be brought to opset 21.
        RecipeError: A pattern of `keep_float` matches nothing.
    """
    static = QuantizeInt8(
        calibration_samples=step.calibration_samples, method="minmax", keep_float=step.keep_float
    )
    return calibrated(
        raise_opset(model, _OPSET), static, context, technique="quantize_int16", form=INT16
    )
